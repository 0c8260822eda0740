"""When the writer pauses so that more units share a commit, and when it must not."""

from __future__ import annotations

import asyncio
import threading
import time
from types import SimpleNamespace

import pytest
from sqlalchemy.exc import OperationalError

from app.errors import AppError, ErrorCode
from app.ledger.entry import EntryKind
from app.limits import StorageLimits
from app.storage import group_commit
from app.storage.database import Database
from app.storage.transaction import SqlTransaction
from tests.contract.conftest import make_entry


async def test_a_lone_caller_never_pauses_the_writer(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """One unit after the other: nothing queues up, so there is nobody to gather."""
    pauses: list[float] = []
    monkeypatch.setattr(group_commit, "time", SimpleNamespace(sleep=pauses.append, monotonic=time.monotonic))
    for number in range(20):
        await database.append(make_entry(f"subject-{number}"))
    assert [] == pauses


async def test_units_that_queue_up_make_the_writer_gather_more(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unit that came during a commit shows that there is load: one pause before the next commit."""
    pauses: list[float] = []
    monkeypatch.setattr(group_commit, "time", SimpleNamespace(sleep=pauses.append, monotonic=time.monotonic))
    begun, queued = threading.Event(), threading.Event()

    def slow(_transaction: SqlTransaction) -> None:
        begun.set()
        assert queued.wait(10)

    first = asyncio.create_task(database.write(slow))
    assert await asyncio.to_thread(begun.wait, 10)
    second = asyncio.create_task(database.write(lambda _transaction: None))
    await asyncio.sleep(0)  # the second is in the queue now
    queued.set()
    await asyncio.gather(first, second)
    assert [StorageLimits().gather_seconds] == pauses


async def test_a_writer_that_stumbles_acknowledges_nothing(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong while a failure is being handled, no caller takes it for success."""

    def stumbling(*_: object) -> None:
        raise OperationalError("INSERT", None, Exception("injected"))

    with monkeypatch.context() as patch:
        patch.setattr(group_commit, "store_entries", stumbling)
        patch.setattr(group_commit, "as_app_error", stumbling)
        with pytest.raises(AppError) as failure:
            await database.append(make_entry("lost"))
    assert ErrorCode.INTERNAL is failure.value.code
    await database.append(make_entry("next"))
    assert 1 == len(await database.read_ledger(0, 10))


async def test_nobody_queues_up_behind_a_commit_that_hangs_who_need_not(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An intent is refused at once, a record of what was signed waits its turn; afterwards all is as before."""
    with Database.open(database_url, StorageLimits(stall_seconds=0.05)) as database:
        release, lane = threading.Event(), database._ledger
        monkeypatch.setattr(lane, "_after_commit", lambda: release.wait(10))
        hanging = lane.submit(work=lambda _transaction: None)
        async with asyncio.timeout(5):
            while not lane.is_stalled:
                await asyncio.sleep(0.01)
        with pytest.raises(AppError) as failure:
            await database.append(make_entry("intent"))
        waiting = asyncio.create_task(database.append(make_entry("issued", EntryKind.CERTIFICATE_ISSUED)))
        await asyncio.sleep(0)
        release.set()
        await asyncio.gather(hanging, waiting)
        assert ErrorCode.UNAVAILABLE is failure.value.code
        await database.append(make_entry("intent"))
        assert 2 == len(await database.read_ledger(0, 10))
