"""What the use cases of a decision worker need from the outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from app.decision.attributes import CheckAttributes
from app.policy.authentication_index import KeySet
from app.policy.effects import NO_EFFECTS, Effects
from app.policy.provider import Provider
from app.policy.request_authentication import JwtRule
from app.policy.snapshot import Manifest, Part, PartRef


@dataclass(frozen=True, slots=True)
class SignedManifest:
    """A manifest whose signature was checked, with its exact bytes for the last-good file."""

    manifest: Manifest
    data: bytes
    signature: bytes
    etag: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusAnswer:
    """What the authority says to a report: the ledger's checkpoint to remember (empty: none), and by when to renew."""

    checkpoint: str = ""
    converge_by: datetime | None = None


class SnapshotLink(Protocol):
    """The authority, seen from a worker."""

    async def fetch_manifest(self, etag: str, *, wait_seconds: float) -> SignedManifest | None:
        """The newest manifest, or None when it is still the one with `etag` after the wait (long poll).

        Raises:
            AppError: `UNAVAILABLE` when the authority cannot be reached, `UNAUTHENTICATED` when the
                signature does not hold.
        """
        ...

    async def fetch_parts(self, refs: Sequence[PartRef]) -> list[Part]:
        """The parts, each with bytes that hash to its reference.

        Raises:
            AppError: `UNAVAILABLE` or `MALFORMED`.
        """
        ...

    async def send_status(self, status: dict[str, Any]) -> StatusAnswer | None:
        """Tell the authority what this worker serves, best effort; None when it did not answer."""
        ...


class CheckpointMemory(Protocol):
    """The ledger's newest checkpoint that this worker was told, across restarts."""

    @property
    def note(self) -> str:
        """What is remembered; empty when nothing is."""
        ...

    async def keep(self, note: str) -> None:
        """Remember this instead."""
        ...


class LastGoodStore(Protocol):
    """The last good snapshot on this worker's disk."""

    def load(self) -> tuple[SignedManifest, list[Part]] | None:
        """What was saved, its signature checked again, or None when there is none that holds."""
        ...

    def save(self, manifest: SignedManifest, parts: Sequence[Part]) -> None:
        """Replace what was saved, atomically."""
        ...


@dataclass(frozen=True, slots=True)
class ProviderQuestion:
    """What a provider is asked about one Check.

    `principal` is who sent the request as the worker knows it (SPIFFE ID, empty for nobody), which at a waypoint
    differs from what the attributes carry. `deadline` is a time of the running event loop, in seconds. `claims` are
    those of the end user's verified token, None without one. `snapshot` is the number of the snapshot that asks.
    """

    provider: Provider
    attributes: CheckAttributes
    principal: str
    deadline: float
    claims: Mapping[str, Any] | None = None
    snapshot: int = 0


@dataclass(frozen=True, slots=True)
class ProviderAnswer:
    """What a provider says. `hint` is for operators: one short sentence that does not quote the request."""

    allowed: bool
    effects: Effects = NO_EFFECTS
    hint: str = ""


class PolicyProvider(Protocol):
    """Whoever answers for a Provider document."""

    async def ask(self, question: ProviderQuestion) -> ProviderAnswer:
        """The answer; never raises: who cannot answer denies, and says why in the hint.

        Cancelled when nobody waits for the answer any more, at the latest at the deadline.
        """
        ...


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """A token whose signature, issuer, audience and times hold: its claims, and its payload as it was sent."""

    claims: Mapping[str, Any]
    payload: str = field(repr=False)  # base64url, without padding


@dataclass(frozen=True, slots=True)
class TokenRefusal:
    """Why a token does not verify, for operators.

    `ask_for_keys` when newer keys of the issuer may help, `other_issuer` when the rule is not about such tokens.
    """

    reason: str
    ask_for_keys: bool = False
    other_issuer: bool = False


class TokenVerifier(Protocol):
    """Verifies tokens of end users; implemented outside, because it needs cryptography."""

    def verify(self, token: str, rule: JwtRule, keys: KeySet | None, now: float) -> VerifiedToken | TokenRefusal:
        """The token's claims when everything about it holds at `now` (seconds since 1970). Never raises.

        Without keys nothing verifies.
        """
        ...
