"""The ledger of mode `available`: straight to the database, into the journal while that is away, and back in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from app.errors import AppError, ErrorCode
from app.limits import JournalLimits, StorageLimits
from app.storage.available_ledger import AvailableLedger
from app.storage.database import Database
from app.storage.journal import Journal
from app.storage.ledger_rows import PreparedEntry
from tests.contract.conftest import NOW, make_entry
from tests.support.administration import acts, refused

QUICK = JournalLimits(patience_seconds=0.5, probe_seconds=0.01, drain_batch_entries=20, drain_seconds=0.5)


class FixedClock:
    """A little later than the entries of these tests."""

    def now(self) -> datetime:
        return NOW + timedelta(seconds=100)


@dataclass
class Breakable:
    """A database that a test takes away: it refuses, or it never answers, or it stores and does not say so."""

    database: Database
    failure: AppError | None = None
    hangs: bool = False
    forgets_to_answer: bool = False
    asked: int = 0
    stored: list[bytes] = field(default_factory=list)

    async def store(self, entries: Sequence[PreparedEntry]) -> None:
        self.asked += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.failure is not None:
            raise self.failure
        await self.database.store(entries)
        self.stored += [entry.uid for entry in entries]
        if self.forgets_to_answer:
            raise AppError(ErrorCode.UNAVAILABLE, "the connection was lost during COMMIT")

    def go(self, *, away: bool) -> None:
        self.failure = AppError(ErrorCode.UNAVAILABLE, "the database is away") if away else None

    def refuse_when_stalled(self) -> None:
        self.database.refuse_when_stalled()


def away(database: Database) -> Breakable:
    breakable = Breakable(database)
    breakable.go(away=True)
    return breakable


@dataclass
class Held:
    """A ledger under test and what it stands on."""

    ledger: AvailableLedger
    database: Breakable
    journal: Journal
    monotonic: list[float]

    async def subjects(self) -> list[str]:
        return [entry["subject"] for entry in await acts(self.database.database)]

    async def until_back(self) -> None:
        async with asyncio.timeout(20):
            while self.ledger.standing().away_since is not None:
                await asyncio.sleep(0.01)


@contextmanager
def holding(database: Breakable, folder: Path, *, max_away_seconds: float = 3_600.0) -> Iterator[Held]:
    journal = Journal.open(folder, QUICK)
    journal.start()
    monotonic = [1_000.0]
    ledger = AvailableLedger(
        database,
        journal,
        max_away_seconds=max_away_seconds,
        limits=QUICK,
        clock=FixedClock(),
        monotonic=lambda: monotonic[0],
    )
    try:
        yield Held(ledger, database, journal, monotonic)
    finally:
        journal.close()


@asynccontextmanager
async def draining(held: Held) -> AsyncIterator[None]:
    task = asyncio.create_task(held.ledger.run())
    try:
        yield
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.fixture
def held(database: Database, tmp_path: Path) -> Iterator[Held]:
    with holding(Breakable(database), tmp_path / "journal") as held:
        yield held


async def test_while_the_database_is_there_the_journal_is_not_used(held: Held) -> None:
    """Mode `available` costs nothing on a good day."""
    await asyncio.gather(*(held.ledger.append(make_entry(f"{n}")) for n in range(50)))
    assert 50 == len(await held.subjects())
    assert (0, 0) == (held.journal.backlog().entries, held.journal.flushes)
    assert held.ledger.standing().away_since is None


@pytest.mark.parametrize("how", ["refuses", "hangs"])
async def test_entries_wait_in_the_journal_and_are_stored_in_order_when_the_database_is_back(
    held: Held, how: str
) -> None:
    """Nothing is refused meanwhile, nothing is missing afterwards, and then the journal is empty."""
    await held.ledger.append(make_entry("before"))
    held.database.hangs = how == "hangs"
    held.database.go(away=how == "refuses")
    async with draining(held):
        for number in range(70):
            await held.ledger.append(make_entry(f"{number}"))
        standing = held.ledger.standing()
        assert (70, True) == (standing.entries, standing.may_record)
        assert "the journal holds 70 entries" in str(standing)
        held.database.hangs = False
        held.database.go(away=False)
        await held.until_back()
        await held.ledger.append(make_entry("after"))
    assert ["before", *(f"{number}" for number in range(70)), "after"] == await held.subjects()
    assert (0, 70) == (held.journal.backlog().entries, held.ledger.standing().drained)


async def test_only_the_first_caller_waits_for_a_database_that_hangs(held: Held) -> None:
    """Later ones go to the journal at once."""
    held.database.hangs = True
    await held.ledger.append(make_entry("first"))
    async with asyncio.timeout(QUICK.patience_seconds):
        for number in range(20):
            await held.ledger.append(make_entry(f"{number}"))
    assert 1 == held.database.asked


async def test_an_entry_whose_outcome_is_unknown_is_there_exactly_once(held: Held) -> None:
    """The commit happened and its answer was lost: the journal has it too, under the same uid."""
    held.database.forgets_to_answer = True
    await held.ledger.append(make_entry("twice?"))
    assert 1 == held.journal.backlog().entries
    held.database.forgets_to_answer = False
    async with draining(held):
        await held.until_back()
    assert ["twice?"] == await held.subjects()
    assert 2 == len(held.database.stored)
    assert 1 == len(set(held.database.stored))


async def test_past_the_bound_nothing_is_recorded_and_the_reason_is_said(database: Database, tmp_path: Path) -> None:
    """`ledger.max_away_seconds` is a promise, too: what waits longer is not added to."""
    with holding(away(database), tmp_path / "j", max_away_seconds=1_800) as held:
        await held.ledger.append(make_entry("in time"))
        held.monotonic[0] += 1_799
        await held.ledger.append(make_entry("just in time"))
        assert 1 == round(held.ledger.standing().seconds_left)
        held.monotonic[0] += 2
        error = await refused(held.ledger.append(make_entry("too late")))
        assert ErrorCode.UNAVAILABLE is error.code
        assert "ledger.max_away_seconds" in error.detail
        assert not held.ledger.standing().may_record
        held.database.go(away=False)
        async with draining(held):
            await held.until_back()
            await held.ledger.append(make_entry("again"))
        assert ["in time", "just in time", "again"] == await held.subjects()


async def test_the_next_process_stores_first_what_the_last_one_left(database: Database, tmp_path: Path) -> None:
    """Killed with a full journal; a database that is still away keeps it, and its age counts on."""
    breakable = away(database)
    with holding(breakable, tmp_path / "j") as held:
        for number in range(50):
            await held.ledger.append(make_entry(f"{number}"))
    with holding(breakable, tmp_path / "j") as held:
        await held.ledger.recover()
        assert 50 == held.ledger.standing().entries
        assert 100 == round(held.ledger.standing().away_seconds)
        await held.ledger.append(make_entry("50"))
    breakable.go(away=False)
    with holding(breakable, tmp_path / "j") as held:
        await held.ledger.recover()
        assert held.ledger.standing().away_since is None
        await held.ledger.append(make_entry("51"))
        assert [f"{number}" for number in range(52)] == await held.subjects()


async def test_the_way_back_is_found_under_load(held: Held) -> None:
    """Callers that never pause cannot keep a replica in its journal."""
    count = 0

    async def caller(name: int) -> None:
        nonlocal count
        while not done.is_set():
            await held.ledger.append(make_entry(f"{name}-{count}"))
            count += 1

    done = asyncio.Event()
    async with draining(held):
        callers = [asyncio.create_task(caller(name)) for name in range(16)]
        for _ in range(3):
            held.database.go(away=True)
            async with asyncio.timeout(20):
                while held.ledger.standing().away_since is None:
                    await asyncio.sleep(0.001)
            held.database.go(away=False)
            await held.until_back()
        done.set()
        await asyncio.gather(*callers)
        await held.until_back()
    assert 0 == held.journal.backlog().entries
    assert count == len(await held.subjects())


async def test_what_the_database_refuses_for_itself_stays_in_the_journal(held: Held) -> None:
    """Nothing that was acknowledged is dropped because it cannot be stored; readiness says why it waits."""
    held.database.failure = AppError(ErrorCode.UNAVAILABLE, "the database is away")
    await held.ledger.append(make_entry("first"))
    held.database.failure = AppError(ErrorCode.INTERNAL, "the write could not be stored")
    async with draining(held), asyncio.timeout(10):
        while held.database.asked < 4:
            await asyncio.sleep(0.01)
        assert "the write could not be stored" in str(held.ledger.standing())
        assert 1 == held.journal.backlog().entries
        held.database.failure = None
        await held.until_back()
    assert ["first"] == await held.subjects()


async def test_a_commit_whose_answer_was_lost_is_looked_up_and_not_repeated(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mode strict: found by its uid means recorded; sent once. SQLite has no connection to lose: there it is refused."""
    with Database.open(database_url, StorageLimits()) as database:
        dialect = database._engines.writer.dialect
        real, commits = type(dialect).do_commit, 0

        def lossy(connection: object) -> None:
            nonlocal commits
            commits += 1
            real(dialect, connection)
            raise dialect.loaded_dbapi.OperationalError("server closed the connection unexpectedly")

        with monkeypatch.context() as patch:
            patch.setattr(dialect, "do_commit", lossy)
            if database_url.startswith("postgresql"):
                await database.append(make_entry("once"))
            else:
                assert ErrorCode.UNAVAILABLE is (await refused(database.append(make_entry("once")))).code
            assert commits >= 1
        assert ["once"] == [entry["subject"] for entry in await acts(database)]
        await database.append(make_entry("next"))
