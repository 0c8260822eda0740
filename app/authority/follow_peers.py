"""Follows the trust bundles of peer clusters: fetched, judged, handed on.

A peer is a cluster of the *same* trust domain with a root of its own. What it says is believed as far as the settings
say: the roots that are pinned, or whatever a server with a web certificate says (`https_web`). A set that is not
covered, or that goes back in its sequence, is *held*: reported with its fingerprints and never adopted. A fetch that
fails changes nothing but the age of what is known.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from app.authority.authority_ports import PeerRoots
from app.authority.authority_set import adopted_id
from app.authority.peer_sequences import PeerSequences, SeenBundle
from app.authority.ports import Clock
from app.ca.bundle import TrustBundle
from app.ca.parent import name_of
from app.ca.spiffe_bundle import DEFAULT_REFRESH_HINT, parse_spiffe_bundle
from app.errors import AppError, ErrorCode
from app.identity.spiffe import TrustDomain
from app.limits import ParentLimits

_log = structlog.get_logger(__name__)

_ACTOR = "system"


class PeerSource(Protocol):
    """Where a peer's bundle is fetched from."""

    @property
    def url(self) -> str:
        """The place, as it may be shown."""
        ...

    async def fetch(self) -> bytes:
        """The bytes of now.

        Raises:
            AppError: `UNAVAILABLE` when they cannot be had.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One peer: where its bundle is, and which roots of it are believed (`pins` empty: all, over web TLS)."""

    name: str
    source: PeerSource
    is_spiffe: bool = True
    pins: frozenset[str] = frozenset()
    refresh_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRoot:
    """One root as people compare it."""

    name: str
    sha256: str
    not_after: datetime
    authority: str  # under which `PeerRoots` keeps it, once adopted

    @classmethod
    def of(cls, peer: str, root: x509.Certificate) -> PeerRoot:
        """The root's name, fingerprint and end."""
        return cls(
            name=name_of(root),
            sha256=root.fingerprint(hashes.SHA256()).hex(),
            not_after=root.not_valid_after_utc,
            authority=adopted_id(root, f"peer:{peer}"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerStatus:
    """How a peer stands: `unknown`, `adopted`, or `held` (`held` has the set that was not adopted).

    `error` is of the last attempt, also while an older set is adopted; `fetched_at` of the last good one.
    """

    name: str
    url: str
    state: str = "unknown"
    roots: tuple[PeerRoot, ...] = ()
    held: tuple[PeerRoot, ...] = ()
    sequence: int | None = None
    fetched_at: datetime | None = None
    error: str = ""


class PeerObserver(Protocol):
    """Hears how each attempt ended."""

    def peer_seen(self, status: PeerStatus, *, age_seconds: float) -> None:
        """A peer stands like this; `age_seconds` since its bundle was last had (since the start if never)."""
        ...


class PeerBundles:
    """Follows all peers."""

    def __init__(
        self,
        peers: Sequence[Peer],
        roots: PeerRoots,
        limits: ParentLimits,
        *,
        sequences: PeerSequences,
        trust_domain: TrustDomain,
        clock: Clock,
        observer: PeerObserver | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._peers = tuple(peers)
        self._roots = roots
        self._limits = limits
        self._sequences = sequences
        self._trust_domain = trust_domain
        self._clock = clock
        self._observer = observer
        self._monotonic = monotonic
        self._had_at = dict.fromkeys((peer.name for peer in peers), monotonic())
        self._statuses = {peer.name: PeerStatus(name=peer.name, url=peer.source.url) for peer in peers}

    def statuses(self) -> list[PeerStatus]:
        """How each peer stands."""
        return list(self._statuses.values())

    async def run(self) -> None:
        """Follow for ever, each peer by itself."""
        async with asyncio.TaskGroup() as group:
            for peer in self._peers:
                group.create_task(self._follow(peer))

    async def _follow(self, peer: Peer) -> None:
        while True:
            pause = await self.refresh(peer)
            await asyncio.sleep(pause.total_seconds())

    async def refresh(self, peer: Peer) -> timedelta:
        """Ask once; when to ask again. Nothing here raises but a cancellation."""
        before = self._statuses[peer.name]
        try:
            bundle, seen, hint = self._read(peer, await peer.source.fetch())
            status = await self._judge(peer, before, bundle, seen)
            self._had_at[peer.name] = self._monotonic()
            pause = timedelta(seconds=peer.refresh_seconds) if peer.refresh_seconds else hint
        except AppError as error:
            status = replace(before, error=error.detail)
            pause = timedelta(seconds=self._limits.retry_seconds)
            if error.detail != before.error:
                _log.warning("peer_bundle_not_had", peer=peer.name, reason=error.detail, diagnosis=error.diagnosis)
        self._statuses[peer.name] = status
        if self._observer is not None:
            self._observer.peer_seen(status, age_seconds=self._monotonic() - self._had_at[peer.name])
        least, most = self._limits.peer_refresh_min_seconds, self._limits.peer_refresh_max_seconds
        return timedelta(seconds=min(max(pause.total_seconds(), least), most))

    def _read(self, peer: Peer, data: bytes) -> tuple[TrustBundle, SeenBundle | None, timedelta]:
        seen, hint = None, None
        if peer.is_spiffe:
            found = parse_spiffe_bundle(data, self._trust_domain)
            bundle, hint = found.bundle, found.refresh_hint
            if found.sequence is not None:
                # Of all roots: one that expires here changes nothing there.
                seen = SeenBundle(found.sequence, bundle.fingerprint)
        else:
            bundle = TrustBundle.from_pem(self._trust_domain, data.decode("ascii", "replace"))
        now = self._clock.now()
        valid = tuple(root for root in bundle.roots if root.not_valid_after_utc > now)
        if not valid:
            raise AppError(ErrorCode.INVALID, f"every root of {peer.source.url} has expired")
        # What a peer took from us is no root of its own: taken back, a root that we removed would never go.
        valid = tuple(root for root in valid if not self._roots.is_own_root(root))
        if not valid:
            raise AppError(ErrorCode.INVALID, f"{peer.source.url} gives out no root but ours")
        pause = DEFAULT_REFRESH_HINT if hint is None else hint
        return TrustBundle.of(self._trust_domain, valid), seen, pause

    async def _judge(self, peer: Peer, before: PeerStatus, bundle: TrustBundle, seen: SeenBundle | None) -> PeerStatus:
        found = tuple(PeerRoot.of(peer.name, root) for root in bundle.roots)
        last = None if seen is None else await self._sequences.last(peer.name)
        reason = _reason_to_hold(peer, found, last, seen)
        if reason:
            if reason != before.error:
                _log.error("peer_bundle_held", peer=peer.name, reason=reason, roots=[root.sha256 for root in found])
            return replace(before, state="held", held=found, error=reason)
        if await self._roots.adopt(peer.name, bundle, actor=_ACTOR):
            _log.info("peer_bundle_adopted", peer=peer.name, roots=[root.sha256 for root in found], seen=str(seen))
        if seen is not None and seen != last:
            await self._sequences.believe(peer.name, seen)
        return replace(
            before,
            state="adopted",
            roots=found,
            held=(),
            sequence=None if seen is None else seen.sequence,
            fetched_at=self._clock.now(),
            error="",
        )


def _reason_to_hold(peer: Peer, found: Sequence[PeerRoot], last: SeenBundle | None, seen: SeenBundle | None) -> str:
    """Why a set is not adopted, or nothing."""
    strangers = [root.sha256 for root in found if root.sha256 not in peer.pins]
    if peer.pins and strangers:
        return (
            f"its bundle has roots that are not pinned: {', '.join(strangers)}; if its operator confirms them, add "
            f"them to the pins of the peer {peer.name}"
        )
    if last is None or seen is None:
        return ""
    if seen.sequence < last.sequence:
        return (
            f"its bundle went back from sequence {last.sequence} to {seen.sequence}; an old answer is not believed. If "
            "its operator says that it was set up anew, give it another name in ca.peers"
        )
    if seen.sequence == last.sequence and seen.fingerprint != last.fingerprint:
        return f"its bundle changed and its sequence {seen.sequence} did not; ask its operator"
    return ""
