"""Letting the mesh converge: stored, recorded, seen by every replica, over by itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from app.authority.actor import Actor, Role
from app.authority.certificates.converge_mesh import ConvergeMesh
from app.errors import AppError, ErrorCode
from app.ledger.entry import EntryKind
from app.limits import Limits
from app.storage.convergence_rows import ConvergenceRows
from app.storage.database import Database
from tests.contract.test_certificate_index import issued

ALICE = Actor(name="alice", role=Role.ADMIN, token_id="t-1", request_id="r-1")
WORKER = Actor(name="edge", role=Role.WORKER, token_id="t-2")


class SetClock:
    """Time stands still until it is moved."""

    def __init__(self) -> None:
        self.time = datetime.now(UTC).replace(microsecond=700_000)

    def now(self) -> datetime:
        return self.time


@pytest.fixture(name="clock")
def _clock() -> SetClock:
    return SetClock()


@pytest.fixture(name="converge")
def _converge(database: Database, clock: SetClock) -> ConvergeMesh:
    return ConvergeMesh(ConvergenceRows(database), clock=clock, limits=Limits())


async def _acts(database: Database) -> list[bytes]:
    return [data for _, data, _ in await database.read_ledger(0, 100) if b'"admin.act"' in data]


async def test_a_deadline_is_stored_recorded_and_seen_by_the_other_replica(
    database: Database, converge: ConvergeMesh, clock: SetClock
) -> None:
    """At once here, at the next look there; the ledger says who, until when, and why."""
    other = ConvergeMesh(ConvergenceRows(database), clock=clock, limits=Limits())
    deadline = clock.now() + timedelta(hours=2)
    status = await converge.start(ALICE, by=deadline, reason="root rotation")
    before = other.deadline()
    await other.refresh()

    assert converge.deadline() == deadline
    assert (before, other.deadline()) == (None, deadline)
    assert status.convergence is not None
    assert (status.convergence.started_by, status.convergence.reason) == ("admin:alice", "root rotation")
    (act,) = await _acts(database)
    assert b'"act":"ca.converge"' in act
    assert b'"reason":"root rotation"' in act
    assert b'"actor":"admin:alice"' in act


async def test_it_ends_by_itself(converge: ConvergeMesh, clock: SetClock) -> None:
    """At the deadline nothing is shorter any more, and nobody has to cancel anything."""
    await converge.start(ALICE, by=clock.now() + timedelta(hours=2))
    clock.time += timedelta(hours=2)

    assert converge.deadline() is None
    assert (await converge.status(ALICE)).convergence is None
    with pytest.raises(AppError) as caught:
        await converge.cancel(ALICE)
    assert caught.value.code is ErrorCode.NOT_FOUND


async def test_a_new_deadline_replaces_the_one_before_and_cancelling_ends_it(
    database: Database, converge: ConvergeMesh, clock: SetClock
) -> None:
    """There is one at most; each act is on record."""
    await converge.start(ALICE, by=clock.now() + timedelta(hours=2))
    later = clock.now() + timedelta(hours=4)
    await converge.start(ALICE, by=later)
    replaced = converge.deadline()
    await converge.cancel(ALICE, reason="done early")
    other = ConvergeMesh(ConvergenceRows(database), clock=clock, limits=Limits())
    await other.refresh()

    assert replaced == later
    assert (converge.deadline(), other.deadline()) == (None, None)
    assert [b"ca.converge.cancel" in act for act in await _acts(database)] == [False, False, True]


@pytest.mark.parametrize("seconds", [-60, 0, 299, 91 * 86_400])
async def test_a_deadline_that_nobody_could_keep_is_refused(
    database: Database, converge: ConvergeMesh, clock: SetClock, seconds: int
) -> None:
    """Past, sooner than the shortest certificate, or later than the longest."""
    with pytest.raises(AppError) as caught:
        await converge.start(ALICE, by=clock.now() + timedelta(seconds=seconds))
    assert caught.value.code is ErrorCode.INVALID
    assert converge.deadline() is None
    assert await _acts(database) == []


async def test_only_administrators(converge: ConvergeMesh, clock: SetClock) -> None:
    """A worker's token neither starts nor sees it."""
    for act in (
        converge.start(WORKER, by=clock.now() + timedelta(hours=2)),
        converge.cancel(WORKER),
        converge.status(WORKER),
    ):
        with pytest.raises(AppError) as caught:
            await act
        assert caught.value.code is ErrorCode.PERMISSION_DENIED


async def test_progress_counts_who_renewed_who_will_and_who_will_be_late(
    database: Database, converge: ConvergeMesh, clock: SetClock
) -> None:
    """By the newest certificate of each identity on each node; the late ones are listed, the latest first."""
    start = clock.now()
    before = start - timedelta(hours=1)
    for entry in (
        issued("01", now=before, hours=24, node="late-1"),  # renews 11 h from the start
        issued("02", now=before, hours=48, node="late-2"),
        issued("03", now=before, hours=4, node="in-time"),  # renews 1 h from the start
        issued("04", now=before, hours=0.5, node="expired"),
        issued("05", now=before, hours=24, node="renewed"),
        issued("06", now=before, hours=24, node="ours", purpose="listener"),
    ):
        await database.append(entry)
    await converge.start(ALICE, by=start + timedelta(hours=2))
    await database.append(issued("07", now=clock.now(), hours=2, node="renewed"))
    clock.time += timedelta(minutes=10)
    progress = (await converge.status(ALICE)).progress
    shown = (await converge.status(ALICE)).to_json(clock.now())

    assert progress is not None
    assert (progress.renewed, progress.pending, progress.late) == (1, 1, 2)
    assert [(late.node, late.cluster) for late in progress.latest] == [
        ("late-2", "Kubernetes"),
        ("late-1", "Kubernetes"),
    ]
    assert progress.latest[1].renews_at == before.replace(microsecond=0) + timedelta(hours=12) - timedelta(minutes=1)
    assert (shown["active"], shown["renewed"], shown["pending"], shown["late"]) == (True, 1, 1, 2)
    assert shown["secondsLeft"] == 6_600


async def test_an_admin_act_is_all_that_it_leaves(database: Database, converge: ConvergeMesh, clock: SetClock) -> None:
    """No certificate is touched by it."""
    await converge.start(ALICE, by=clock.now() + timedelta(hours=2))
    entries = await database.read_ledger(0, 10)

    assert len(entries) == 1
    assert EntryKind.ADMIN_ACT.value.encode() in entries[0][1]
