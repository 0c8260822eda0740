"""A worker that follows its authority over sockets, with a real folder for the last good snapshot."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from app.decision.counters import CheckCounters
from app.decision.follow_snapshot import SnapshotFollower
from app.decision.load_snapshot import SnapshotLoader
from app.decision.overload import LoopLag
from app.decision.report_status import WorkerReport, report_status
from app.decision.state import StateHolder
from app.limits import PolicyLimits
from app.link.client import LinkClient
from app.link.last_good import LastGoodFolder
from app.link.signing import ManifestSigningKey, ManifestVerifier
from tests.support.decisions import LOCAL_WAYPOINT, READERS
from tests.support.link_authority import LINK_LIMITS, Authority
from tests.support.snapshots import policy, verifier

BAD = {**policy("bad"), "spec": {"action": "PERHAPS"}}


@dataclass
class Following:
    """A worker's parts."""

    holder: StateHolder
    follower: SnapshotFollower
    started_from_disk: bool

    @property
    def number(self) -> int | None:
        return None if self.holder.state is None else self.holder.state.number


@asynccontextmanager
async def _following(url: str, folder: Path, pinned: ManifestVerifier | None = None) -> AsyncIterator[Following]:
    """A worker that runs while the block does."""
    pinned = pinned or verifier()
    holder = StateHolder()
    loader = SnapshotLoader(slice_seconds=0.003, limits=PolicyLimits())
    async with LinkClient.connect(url, token="good", verifier=pinned, limits=LINK_LIMITS) as link:
        follower = SnapshotFollower(link, loader, holder, limits=LINK_LIMITS, last_good=LastGoodFolder(folder, pinned))
        report = WorkerReport(
            worker="node-a/1",
            pid=os.getpid(),
            holder=holder,
            counters=CheckCounters(),
            lag=LoopLag(max_queue_seconds=0.1),
            loader=loader,
            limits=LINK_LIMITS,
        )
        started = await follower.start_from_last_good()
        tasks = [
            asyncio.create_task(follower.run()),
            asyncio.create_task(report_status(link, report, interval_seconds=0.05)),
        ]
        try:
            yield Following(holder, follower, started)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


def _saved(folder: Path) -> int | None:
    saved = LastGoodFolder(folder, verifier()).load()
    return None if saved is None else saved[0].manifest.number


async def test_a_change_reaches_a_worker_by_the_long_poll(tmp_path: Path) -> None:
    """When it happens, and not when the poll would end."""
    async with Authority().serving() as authority:
        authority.source.put(LOCAL_WAYPOINT, READERS)
        await authority.publisher.refresh()
        async with _following(authority.url, tmp_path) as worker:
            await _until(lambda: worker.number == 1)
            for number in range(2, 6):
                authority.source.put(policy(f"p{number}"))
                await authority.publisher.refresh()
                async with asyncio.timeout(LINK_LIMITS.long_poll_seconds / 2):
                    while worker.number != number:
                        await asyncio.sleep(0.005)


async def test_a_worker_outlives_its_authority_and_restarts_without_it(tmp_path: Path) -> None:
    """Serve on, start from disk, take up the link again when the authority is back."""
    authority = Authority()
    authority.source.put(LOCAL_WAYPOINT, READERS)
    await authority.publisher.refresh()
    async with authority.serving():
        port = int(authority.url.rpartition(":")[2])
        async with _following(authority.url, tmp_path) as worker:
            await _until(lambda: _saved(tmp_path) == 1)
            assert not worker.started_from_disk
    async with _following(authority.url, tmp_path) as worker:
        assert (True, 1, False) == (worker.started_from_disk, worker.number, worker.holder.confirmed)
        authority.source.put(policy("new"))
        await authority.publisher.refresh()
        async with authority.serving(port):
            await _until(lambda: worker.number == 2)
            assert worker.holder.confirmed


async def test_r12b_a_refusal_is_seen_by_the_authority(tmp_path: Path) -> None:
    """The status names the snapshot that was refused, why, and what is served instead."""
    async with Authority().serving() as authority:
        authority.source.put(LOCAL_WAYPOINT, READERS)
        await authority.publisher.refresh()
        async with _following(authority.url, tmp_path) as worker:
            await _until(lambda: _saved(tmp_path) == 1)
            authority.source.put(BAD)
            await authority.publisher.refresh()

            def refused() -> bool:
                statuses = authority.registry.statuses(now=authority.now())
                return bool(statuses) and statuses[0].report["rejected"] is not None

            await _until(refused)
            (status,) = authority.registry.statuses(now=authority.now())
            assert (1, 2) == (status.report["number"], status.report["rejected"]["number"])
            assert "AuthorizationPolicy/shop/bad" in status.report["rejected"]["reason"]
            assert 1 == worker.number
        assert 1 == _saved(tmp_path)
        async with _following(authority.url, tmp_path) as worker:  # R12d: it starts all the same
            assert (True, 1) == (worker.started_from_disk, worker.number)


async def test_another_authority_does_not_get_its_snapshot_served(tmp_path: Path) -> None:
    """A worker that pins another key neither loads from the disk nor from the link, and waits."""
    async with Authority().serving() as authority:
        authority.source.put(LOCAL_WAYPOINT, READERS)
        await authority.publisher.refresh()
        async with _following(authority.url, tmp_path):
            await _until(lambda: _saved(tmp_path) == 1)
        stranger = ManifestVerifier.parse(ManifestSigningKey(ManifestSigningKey.new_seed()).public_text)
        async with _following(authority.url, tmp_path, stranger) as worker:
            assert not worker.started_from_disk
            await asyncio.sleep(0.5)
            assert (None, False) == (worker.number, worker.holder.confirmed)
