"""What the authority's side of the link needs from the outside: who a worker is, and its serving certificate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from app.policy.quarantine import NOTHING_REVOKED, RevokedCertificates


@dataclass(frozen=True, slots=True)
class Scope:
    """What a worker may see: the policies and services of some namespaces, or everything (None)."""

    namespaces: frozenset[str] | None = None

    @property
    def is_everything(self) -> bool:
        """Whether nothing is left out."""
        return self.namespaces is None

    def sees(self, namespace: str, *, root_namespace: str) -> bool:
        """Whether items of this namespace are in scope; cluster-wide items and the root namespace always are."""
        return self.namespaces is None or namespace in ("", root_namespace) or namespace in self.namespaces


EVERYTHING = Scope()


@dataclass(frozen=True, slots=True)
class WorkerCaller:
    """A decision worker that authenticated on the link; `name` is the name of its token."""

    name: str
    scope: Scope = EVERYTHING


class WorkerAuthenticator(Protocol):
    """Verifies the bearer tokens of decision workers."""

    async def authenticate_worker(self, token: str) -> WorkerCaller:
        """The worker that a valid token of role `worker` names.

        Raises:
            AppError: `UNAUTHENTICATED` when the token is unknown, revoked, expired or of another role.
        """
        ...


class ServingCertificateIssuer(Protocol):
    """Issues the short-lived certificates with which workers serve port 9193."""

    @property
    def converge_by(self) -> datetime | None:
        """Until when everybody shall have renewed; None when nothing converges."""
        ...

    async def issue_serving_certificate(
        self, worker: WorkerCaller, csr_pem: str, *, request_id: str, replaced: Sequence[str] = ()
    ) -> list[str]:
        """The chain for the key in the CSR: leaf first, then each intermediate, then all roots, as CreateCertificate.

        Recorded in the ledger like any other certificate. The identity is the authority's choice for workers;
        what the CSR asks for is not followed. `replaced` are serials of the worker's earlier ones that it put away.

        Raises:
            AppError: as issuing does.
        """
        ...


class CheckpointExchange(Protocol):
    """Tells workers the ledger's newest checkpoint, and hears which one they remember."""

    async def hear(self, note: str, where: str) -> None:
        """Compare what a worker remembers with what is stored.

        Raises:
            AppError: `FAILED_PRECONDITION` when the ledger went backwards; the authority then ends.
        """
        ...

    def newest_note(self) -> str:
        """The newest checkpoint; empty before the first."""
        ...


class TrustSource(Protocol):
    """Where the publisher reads the trust bundle from."""

    def trust_bundle(self) -> Mapping[str, Any]:
        """`{"trustDomain": NAME, "pem": PEM}` of the roots that hold now."""
        ...


class RevokedSource(Protocol):
    """Where the publisher reads the certificates that quarantines revoke."""

    async def revoked(self, number: int) -> RevokedCertificates:
        """Those of (at least) the set of documents that has this snapshot number.

        Raises:
            AppError: `UNAVAILABLE`.
        """
        ...


class NothingRevoked:
    """Revokes nothing."""

    async def revoked(self, number: int) -> RevokedCertificates:  # noqa: ARG002
        """Nothing."""
        return NOTHING_REVOKED


class TokenKeySource(Protocol):
    """Where the publisher reads the keys of token issuers from."""

    def take(self, documents: Mapping[str, Any]) -> None:
        """Documents changed: JSON by key, None for what is gone."""
        ...

    def items(self) -> Mapping[str, Any]:
        """The keys of now, as the items of the `keys` parts."""
        ...


class TokenKeyHints(Protocol):
    """Hears from workers of which issuers newer keys are wanted."""

    def hint(self, sources: Iterable[str]) -> None:
        """Tokens came with keys of these sources (`KeySource.id`) that no worker knows."""
        ...


class NoTokenKeys:
    """Implements both where nobody verifies tokens."""

    def take(self, documents: Mapping[str, Any]) -> None:
        """Nothing."""

    def items(self) -> Mapping[str, Any]:
        """Nothing."""
        return {}

    def hint(self, sources: Iterable[str]) -> None:
        """Nothing."""


class ManifestSigner(Protocol):
    """Signs manifests with the snapshot key."""

    def sign(self, manifest: bytes) -> bytes:
        """A detached signature over the manifest's bytes."""
        ...
