"""Following peers: what is believed is handed on, what is not is held, what fails keeps what is known."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes

from app.authority.follow_peers import Peer, PeerBundles, PeerStatus
from app.ca.bundle import TrustBundle
from app.ca.spiffe_bundle import write_spiffe_bundle
from app.errors import AppError, ErrorCode
from app.limits import ParentLimits
from tests.support.ca import ManualClock
from tests.support.certificates import TRUST_DOMAIN, make_pki
from tests.support.parents import ManualTime, RememberedSequences, RememberingRoots

ONE, TWO = (make_pki(now=datetime.now(UTC)).root for _ in range(2))
LIMITS = ParentLimits()


def pin(root: Any) -> str:
    return str(root.fingerprint(hashes.SHA256()).hex())


def spiffe(*roots: Any, sequence: int = 1, hint: float = 300) -> bytes:
    bundle = TrustBundle.of(TRUST_DOMAIN, roots)
    return write_spiffe_bundle(bundle, sequence=sequence, refresh_hint=timedelta(seconds=hint))


class Server:
    """A peer's server: answers with what it is set to."""

    url = "https://peer.example/bundle"

    def __init__(self, body: bytes = b"") -> None:
        self.body = body
        self.failure: AppError | None = None

    async def fetch(self) -> bytes:
        if self.failure is not None:
            raise self.failure
        return self.body


class Followed:
    """One followed peer."""

    def __init__(self, body: bytes, sequences: RememberedSequences | None = None, **peer: Any) -> None:
        self.server, self.roots, self.time = Server(body), RememberingRoots(), ManualTime()
        self.seen: list[tuple[PeerStatus, float]] = []
        self.clock = ManualClock()
        self.peer = Peer(name="east", source=self.server, **peer)
        self.bundles = PeerBundles(
            [self.peer], self.roots, LIMITS, sequences=sequences or RememberedSequences(),
            trust_domain=TRUST_DOMAIN, clock=self.clock, observer=self, monotonic=self.time,
        )  # fmt: skip

    def peer_seen(self, status: PeerStatus, *, age_seconds: float) -> None:
        self.seen.append((status, age_seconds))

    async def refresh(self, body: bytes | None = None) -> PeerStatus:
        self.server.body = self.server.body if body is None else body
        self.pause = await self.bundles.refresh(self.peer)
        return self.bundles.statuses()[0]


async def test_pinned_roots_are_handed_on() -> None:
    """In the SPIFFE form and as PEM."""
    pem = TrustBundle.of(TRUST_DOMAIN, (ONE,)).pem.encode()
    for body, is_spiffe in ((spiffe(ONE), True), (pem, False)):
        followed = Followed(body, pins=frozenset({pin(ONE)}), is_spiffe=is_spiffe)
        status = await followed.refresh()

        assert [("east", TrustBundle.of(TRUST_DOMAIN, (ONE,)))] == followed.roots.adopted
        assert ("adopted", [pin(ONE)], "") == (status.state, [root.sha256 for root in status.roots], status.error)


async def test_a_root_that_is_not_pinned_holds_the_whole_set_and_names_it() -> None:
    """What was adopted stays; pinning it is for a person to decide."""
    followed = Followed(spiffe(ONE), pins=frozenset({pin(ONE)}))
    await followed.refresh()
    status = await followed.refresh(spiffe(ONE, TWO, sequence=2))

    assert ("held", [pin(ONE)], {pin(ONE), pin(TWO)}) == (
        status.state, [root.sha256 for root in status.roots], {root.sha256 for root in status.held},
    )  # fmt: skip
    assert pin(TWO) in status.error
    assert 1 == len(followed.roots.adopted)


async def test_web_trust_takes_what_the_server_says() -> None:
    """A rotation of the peer arrives by itself."""
    followed = Followed(spiffe(ONE))
    await followed.refresh()
    status = await followed.refresh(spiffe(ONE, TWO, sequence=2))

    assert ("adopted", 2, 2) == (status.state, status.sequence, len(status.roots))
    assert 2 == len(followed.roots.adopted)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [(spiffe(TWO, sequence=4), "went back from sequence 5 to 4"), (spiffe(TWO, sequence=5), "sequence 5 did not")],
)
async def test_a_set_that_does_not_follow_from_the_last_is_held(body: bytes, sentence: str) -> None:
    """An old answer played back, or one that changed without saying so."""
    followed = Followed(spiffe(ONE, sequence=5))
    await followed.refresh()
    status = await followed.refresh(body)

    assert ("held", True, 1) == (status.state, sentence in status.error, len(followed.roots.adopted))


@pytest.mark.parametrize(
    ("body", "state"),
    [
        (spiffe(TWO, sequence=4), "held"),
        (spiffe(TWO, sequence=5), "held"),
        (spiffe(ONE, sequence=5), "adopted"),
        (spiffe(TWO, sequence=6), "adopted"),
    ],
)
async def test_an_old_set_is_noticed_after_a_restart(body: bytes, state: str) -> None:
    """What was believed is remembered for longer than the process lives."""
    sequences = RememberedSequences()
    await Followed(spiffe(ONE, sequence=5), sequences).refresh()
    restarted = Followed(body, sequences)

    assert state == (await restarted.refresh()).state
    assert (state == "adopted") == bool(restarted.roots.adopted)


async def test_a_root_of_ours_is_no_root_of_the_peer() -> None:
    """It took it from us. It needs no pin, and alone it is no bundle."""
    followed = Followed(spiffe(ONE, TWO), pins=frozenset({pin(ONE)}))
    followed.roots.own = (TWO,)
    status = await followed.refresh()
    assert ("adopted", [pin(ONE)]) == (status.state, [root.sha256 for root in status.roots])
    assert "no root but ours" in (await followed.refresh(spiffe(TWO, sequence=2))).error


async def test_a_root_that_expires_is_no_change_of_the_peer() -> None:
    """Its bundle is the same, with the same sequence; only fewer of its roots are taken."""
    now = datetime.now(UTC)
    short = make_pki(now=now, root_lifetime=timedelta(days=8), issuing_lifetime=timedelta(days=1)).root
    followed = Followed(spiffe(ONE, short, sequence=5))
    assert 2 == len((await followed.refresh()).roots)
    followed.clock.now = lambda: now + timedelta(days=9)  # type: ignore[method-assign]
    status = await followed.refresh()

    assert ("adopted", 1) == (status.state, len(status.roots))


async def test_a_failed_fetch_keeps_what_is_known_and_its_age_grows() -> None:
    """Whatever failed: the network, the document, the database behind us."""
    followed = Followed(spiffe(ONE))
    good = await followed.refresh()
    followed.time.seconds += 100
    followed.server.failure = AppError(ErrorCode.UNAVAILABLE, "no answer in 10 s")
    away = await followed.refresh()
    followed.server.failure = None
    broken = await followed.refresh(b"{")
    followed.roots.failure = AppError(ErrorCode.UNAVAILABLE, "the database is away")
    stuck = await followed.refresh(spiffe(ONE, TWO, sequence=2))

    for status in (away, broken, stuck):
        assert (good.state, good.roots, good.fetched_at) == (status.state, status.roots, status.fetched_at)
        assert status.error
    assert [0, 100, 100, 100] == [age for _, age in followed.seen]
    assert LIMITS.retry_seconds == followed.pause.total_seconds()


async def test_a_peers_expired_root_is_left_out() -> None:
    """It would only make every handshake longer."""
    old = make_pki(
        now=datetime.now(UTC) - timedelta(days=9), root_lifetime=timedelta(days=8), issuing_lifetime=timedelta(days=1)
    ).root
    followed = Followed(spiffe(ONE, old))
    assert 1 == len((await followed.refresh()).roots)
    assert "has expired" in (await Followed(spiffe(old)).refresh()).error


@pytest.mark.parametrize(
    ("hint", "setting", "expected"), [(300, 0, 300), (0, 0, 30), (10**9, 0, 3600), (300, 60, 60), (300, 1, 30)]
)
async def test_the_next_fetch_is_when_the_peer_hints_within_bounds(hint: int, setting: float, expected: float) -> None:
    """A setting overrules the hint, the bounds overrule both."""
    followed = Followed(spiffe(ONE, hint=hint), refresh_seconds=setting)
    await followed.refresh()

    assert expected == followed.pause.total_seconds()
