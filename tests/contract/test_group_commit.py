"""When the writer pauses so that more units share a commit, and when it must not."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace

import pytest

from app.limits import StorageLimits
from app.storage import group_commit
from app.storage.database import Database
from app.storage.transaction import SqlTransaction
from tests.contract.conftest import make_entry


async def test_a_lone_caller_never_pauses_the_writer(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """One unit after the other: nothing queues up, so there is nobody to gather."""
    pauses: list[float] = []
    monkeypatch.setattr(group_commit, "time", SimpleNamespace(sleep=pauses.append))
    for number in range(20):
        await database.append(make_entry(f"subject-{number}"))
    assert [] == pauses


async def test_units_that_queue_up_make_the_writer_gather_more(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unit that came during a commit shows that there is load: one pause before the next commit."""
    pauses: list[float] = []
    monkeypatch.setattr(group_commit, "time", SimpleNamespace(sleep=pauses.append))
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
