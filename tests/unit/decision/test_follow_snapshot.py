"""Following the authority: start without it, serve on without it, never go back."""

import asyncio
from collections.abc import Sequence

import pytest

from app.decision.counters import CheckCounters
from app.decision.follow_snapshot import SnapshotFollower
from app.decision.load_snapshot import SnapshotLoader
from app.decision.overload import LoopLag
from app.decision.ports import SignedManifest
from app.decision.report_status import WorkerReport, report_status
from app.decision.state import StateHolder
from app.errors import AppError, ErrorCode
from app.limits import CheckLimits, PolicyLimits
from app.policy.snapshot import Part
from tests.support.decisions import LOCAL_WAYPOINT, READERS
from tests.support.snapshots import DirectLink, MemorySource, parts_of, policy, publisher, signed

LIMITS = CheckLimits(link_backoff_max_seconds=0.2, long_poll_seconds=5.0)


class MemoryDisk:
    """A `LastGoodStore` in memory."""

    def __init__(self) -> None:
        self.saved: tuple[SignedManifest, dict[str, Part]] | None = None
        self.failing = False

    def load(self) -> tuple[SignedManifest, list[Part]] | None:
        if self.saved is None:
            return None
        manifest, parts = self.saved
        return manifest, [parts[ref.sha256] for ref in manifest.manifest.parts]

    def save(self, manifest: SignedManifest, parts: Sequence[Part]) -> None:
        if self.failing:
            raise OSError(28, "No space left on device")
        known = self.saved[1] if self.saved is not None else {}
        self.saved = (manifest, {**known, **{part.ref.sha256: part for part in parts}})


class Setup:
    """One worker beside its authority."""

    def __init__(self, disk: MemoryDisk | None = None) -> None:
        self.source = MemorySource()
        self.publisher = publisher(self.source)
        self.link = DirectLink(self.publisher)
        self.now = 100.0
        self.restart(disk)

    def restart(self, disk: MemoryDisk | None) -> None:
        self.disk = disk
        self.holder = StateHolder(monotonic=lambda: self.now)
        self.loader = SnapshotLoader(slice_seconds=0.003, limits=PolicyLimits())
        self.follower = SnapshotFollower(self.link, self.loader, self.holder, limits=LIMITS, last_good=disk)

    async def publish(self, *documents: dict[str, object]) -> None:
        self.source.put(*documents)
        await self.publisher.refresh()

    @property
    def number(self) -> int | None:
        return None if self.holder.state is None else self.holder.state.number


async def test_only_parts_that_are_missing_are_fetched() -> None:
    """A changed document costs one part, an unchanged manifest none."""
    setup = Setup()
    await setup.publish(LOCAL_WAYPOINT, READERS, *[policy(f"p{i}") for i in range(50)])
    assert await setup.follower.follow_once(wait_seconds=0)
    setup.link.fetched.clear()
    assert not await setup.follower.follow_once(wait_seconds=0)
    await setup.publish(policy("p3", action="DENY"))
    assert await setup.follower.follow_once(wait_seconds=0)
    assert 1 == len(setup.link.fetched)
    assert 2 == setup.number


async def test_a_refused_snapshot_is_reported_once_and_left_by_the_next_good_one() -> None:
    """R12b: keep the last good one, say which was refused and why, do not ask for it again."""
    setup = Setup()
    await setup.publish(LOCAL_WAYPOINT, READERS)
    await setup.follower.follow_once(wait_seconds=0)
    await setup.publish({**policy("bad"), "spec": {"action": "PERHAPS"}})
    assert not await setup.follower.follow_once(wait_seconds=0)
    assert 1 == setup.number
    assert setup.holder.rejection is not None
    assert (2, 2) == (setup.holder.rejection.number, setup.holder.rejection.revision)
    assert "AuthorizationPolicy/shop/bad" in setup.holder.rejection.reason
    setup.link.fetched.clear()
    assert not await setup.follower.follow_once(wait_seconds=0)
    assert [] == setup.link.fetched
    await setup.publish(policy("bad", action="DENY"))
    assert await setup.follower.follow_once(wait_seconds=0)
    assert (3, None) == (setup.number, setup.holder.rejection)


async def test_r18_a_number_never_goes_back() -> None:
    """An authority that was restored from an old backup does not take workers back to old rules."""
    setup = Setup()
    await setup.publish(LOCAL_WAYPOINT)
    await setup.publish(READERS)
    await setup.follower.follow_once(wait_seconds=0)
    assert 2 == setup.number
    old = Setup()
    await old.publish(LOCAL_WAYPOINT)
    setup.follower._link = old.link
    assert not await setup.follower.follow_once(wait_seconds=0)
    assert 2 == setup.number
    assert setup.holder.rejection is not None
    assert "lower" in setup.holder.rejection.reason


async def test_a_worker_starts_from_its_disk_without_the_authority() -> None:
    """What it saved is what it serves, until the authority is back and has something newer."""
    disk = MemoryDisk()
    setup = Setup(disk)
    await setup.publish(LOCAL_WAYPOINT, READERS)
    publication = await setup.publisher.current()
    disk.save(signed(publication), parts_of(publication))
    setup.restart(disk)
    setup.link.failure = AppError(ErrorCode.UNAVAILABLE, "away")
    assert await setup.follower.start_from_last_good()
    assert (1, False) == (setup.number, setup.holder.confirmed)
    with pytest.raises(AppError):
        await setup.follower.follow_once(wait_seconds=0)
    setup.link.failure = None
    setup.link.fetched.clear()
    assert not await setup.follower.follow_once(wait_seconds=0)
    assert ([], True) == (setup.link.fetched, setup.holder.confirmed)
    await setup.publish(policy("new"))
    assert await setup.follower.follow_once(wait_seconds=0)
    assert 2 == setup.number


async def test_r12d_a_worker_whose_newest_snapshot_is_bad_starts_from_the_last_good_one() -> None:
    """A poisoned version does not keep a restarted worker from serving."""
    disk = MemoryDisk()
    setup = Setup(disk)
    await setup.publish(LOCAL_WAYPOINT, READERS)
    publication = await setup.publisher.current()
    disk.save(signed(publication), parts_of(publication))
    await setup.publish({**policy("bad"), "spec": {"action": "PERHAPS"}})
    setup.restart(disk)
    assert await setup.follower.start_from_last_good()
    assert not await setup.follower.follow_once(wait_seconds=0)
    assert 1 == setup.number
    assert setup.holder.rejection is not None


async def test_a_disk_whose_content_cannot_be_loaded_is_as_good_as_none() -> None:
    """The worker waits for the authority instead."""
    disk = MemoryDisk()
    setup = Setup(disk)
    assert not await setup.follower.start_from_last_good()
    await setup.publish({**policy("bad"), "spec": {"action": "PERHAPS"}})
    publication = await setup.publisher.current()
    disk.save(signed(publication), parts_of(publication))
    assert not await setup.follower.start_from_last_good()
    assert setup.number is None


async def test_the_loop_follows_saves_and_outlives_an_absent_authority() -> None:
    """Changes arrive by themselves, also after the authority or the disk was away for a while."""
    disk = MemoryDisk()
    setup = Setup(disk)
    setup.link.failure = AppError(ErrorCode.UNAVAILABLE, "away")
    running = asyncio.create_task(setup.follower.run())
    try:
        async with asyncio.timeout(20):
            await asyncio.sleep(0.05)
            await setup.publish(LOCAL_WAYPOINT, READERS)
            disk.failing = True
            setup.link.failure = None
            await setup.follower.wait_loaded()
            assert 1 == setup.number
            disk.failing = False
            await setup.publish(policy("second"))
            while disk.saved is None or disk.saved[0].manifest.number < 2:
                await asyncio.sleep(0.005)
            assert 2 == setup.number
        loaded = disk.load()  # the parts that could not be saved at first were saved with the second
        assert loaded is not None
        assert len(loaded[0].manifest.parts) == len(loaded[1])
    finally:
        running.cancel()


async def test_an_unexpected_failure_does_not_end_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is logged, and the worker follows on."""
    setup = Setup()
    await setup.publish(LOCAL_WAYPOINT)
    failures = 2
    fetch = setup.link.fetch_manifest

    async def failing(etag: str, *, wait_seconds: float) -> SignedManifest | None:
        nonlocal failures
        if failures:
            failures -= 1
            raise RuntimeError("a bug")
        return await fetch(etag, wait_seconds=wait_seconds)

    monkeypatch.setattr(setup.link, "fetch_manifest", failing)
    running = asyncio.create_task(setup.follower.run())
    async with asyncio.timeout(10):
        await setup.follower.wait_loaded()
    running.cancel()
    assert (0, 1) == (failures, setup.number)


async def test_age_is_the_time_since_the_authority_was_heard() -> None:
    """Not since the last change: an authority that says "nothing new" is an authority that is there."""
    setup = Setup()
    await setup.publish(LOCAL_WAYPOINT)
    await setup.follower.follow_once(wait_seconds=0)
    setup.now += 10
    assert 10 == setup.holder.age_seconds()
    await setup.follower.follow_once(wait_seconds=0)
    assert 0 == setup.holder.age_seconds()


async def test_the_status_report_says_what_is_served() -> None:
    """Numbers, age, refusals and counters; stale is a word of its own."""
    setup = Setup()
    report = WorkerReport(
        worker="node-a/1",
        pid=7,
        holder=setup.holder,
        counters=CheckCounters(),
        lag=LoopLag(max_queue_seconds=0.1),
        loader=setup.loader,
        limits=LIMITS,
    )
    assert ("empty", None) == (report.to_json()["state"], report.to_json()["number"])
    await setup.publish(LOCAL_WAYPOINT, READERS)
    await setup.follower.follow_once(wait_seconds=0)
    await setup.publish({**policy("bad"), "spec": {"action": "PERHAPS"}})
    await setup.follower.follow_once(wait_seconds=0)
    setup.now += 3
    sending = asyncio.create_task(report_status(setup.link, report, interval_seconds=60))
    async with asyncio.timeout(5):
        while not setup.link.statuses:
            await asyncio.sleep(0)
    sending.cancel()
    (status,) = setup.link.statuses
    assert 0.0 == status["load"]["checksPerSecond"]
    assert ("node-a/1", "serving", 1, 1, 3.0, 2, 2) == (
        status["worker"],
        status["state"],
        status["number"],
        status["revision"],
        status["ageSeconds"],
        status["rejected"]["number"],
        status["documents"],
    )
    setup.now += LIMITS.stale_after_seconds
    assert "stale" == report.to_json()["state"]
