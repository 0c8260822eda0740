"""The contract of the store: units of work, isolation from each other, bounds, and honest failures."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text

from app.errors import AppError, ErrorCode
from app.limits import StorageLimits
from app.storage.database import Database
from app.storage.tables import properties
from app.storage.transaction import SqlTransaction
from tests.contract.conftest import make_entry
from tests.support.databases import new_sqlite
from tests.support.postgres import PostgresServer


def put(name: str, value: str) -> Callable[[SqlTransaction], str]:
    def work(transaction: SqlTransaction) -> str:
        transaction.connection.execute(insert(properties), [{"name": name, "value": value}])
        return value

    return work


async def names(database: Database) -> list[str]:
    def work(transaction: SqlTransaction) -> list[str]:
        return list(transaction.connection.execute(select(properties.c.name).order_by(properties.c.name)).scalars())

    return await database.read(work)


async def test_what_was_written_is_read(database: Database) -> None:
    """A write that returned is visible to the next read."""
    assert await database.write(put("a", "1")) == "1"
    assert await names(database) == ["a"]


async def test_one_failing_unit_fails_nobody_else(database: Database) -> None:
    """Units share a commit and not their failures."""
    results = await asyncio.gather(
        database.write(put("a", "1")),
        database.write(put("a", "again")),
        database.write(put("b", "2")),
        return_exceptions=True,
    )
    assert ["1", "2"] == [result for result in results if isinstance(result, str)]
    assert isinstance(results[1], AppError)
    assert ErrorCode.CONFLICT is results[1].code
    assert await names(database) == ["a", "b"]
    assert database.health().ok


async def test_an_unexpected_error_of_a_unit_reaches_its_caller_alone(database: Database) -> None:
    """Not even a bug in a unit stops the writer."""
    results = await asyncio.gather(
        database.write(lambda _: 1 // 0), database.write(put("a", "1")), return_exceptions=True
    )
    assert isinstance(results[0], ZeroDivisionError)
    assert results[1] == "1"


async def test_a_read_cannot_write(database: Database) -> None:
    """The reading connections are read-only, whatever a unit tries."""
    with pytest.raises(AppError):
        await database.read(put("a", "1"))
    assert await names(database) == []


async def test_a_full_queue_refuses_instead_of_growing(database_url: str) -> None:
    """Beyond the bound a write is OVERLOADED at once, and what is queued is still stored."""
    started, go_on = threading.Event(), threading.Event()

    def blocking(_: SqlTransaction) -> None:
        started.set()
        assert go_on.wait(30)

    limits = StorageLimits(max_queued_writes=2)
    with Database.open(database_url, limits) as database:
        first = asyncio.ensure_future(database.write(blocking))
        await asyncio.to_thread(started.wait, 30)
        queued = [asyncio.ensure_future(database.write(put(name, "1"))) for name in ("a", "b")]
        await asyncio.sleep(0)
        with pytest.raises(AppError) as caught:
            await database.write(put("c", "1"))
        assert ErrorCode.OVERLOADED is caught.value.code
        go_on.set()
        await asyncio.gather(first, *queued)
        assert await names(database) == ["a", "b"]


async def test_closing_stores_what_is_queued(database_url: str) -> None:
    """Whoever got in before the end is served."""
    database = Database.open(database_url, StorageLimits())
    waiting = [asyncio.ensure_future(database.append(make_entry(str(number)))) for number in range(50)]
    await asyncio.sleep(0)
    await asyncio.to_thread(database.close)
    await asyncio.gather(*waiting)
    with Database.open(database_url, StorageLimits()) as reopened:
        assert len(await reopened.read_ledger(0, 100)) == 50


async def test_a_closed_database_says_so(database_url: str) -> None:
    """No write hangs after the end."""
    database = Database.open(database_url, StorageLimits())
    database.close()
    with pytest.raises(AppError) as caught:
        await database.append(make_entry("late"))
    assert ErrorCode.UNAVAILABLE is caught.value.code
    with pytest.raises(AppError) as caught:
        await names(database)
    assert ErrorCode.UNAVAILABLE is caught.value.code


async def test_a_cancelled_caller_leaves_the_writer_in_order(database: Database) -> None:
    """A caller that gives up does not keep the next one from being served."""
    given_up = asyncio.ensure_future(database.write(put("a", "1")))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    assert await database.write(put("b", "2")) == "2"


async def test_a_failed_commit_is_reported_to_all_and_recovers(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody in a failed commit hears of success; readiness says why; the next commit ends it."""
    engine = database._engines.writer
    original = engine.dialect.do_commit

    def failing(connection: object) -> None:
        raise engine.dialect.loaded_dbapi.OperationalError("commit failed")

    monkeypatch.setattr(engine.dialect, "do_commit", failing)
    results = await asyncio.gather(
        database.append(make_entry("a")), database.write(put("a", "1")), return_exceptions=True
    )
    assert [ErrorCode.UNAVAILABLE] * 2 == [result.code for result in results if isinstance(result, AppError)]
    assert not database.health().ok
    assert not database.health().fatal
    monkeypatch.setattr(engine.dialect, "do_commit", original)
    await database.append(make_entry("b"))
    await database.write(put("b", "1"))
    assert database.health().ok
    rows = await database.read_ledger(0, 10)
    assert [0] == [index for index, _, _ in rows]
    assert b'"subject":"b"' in rows[0][1]
    assert await names(database) == ["b"]


async def test_a_stumble_after_the_commit_neither_hangs_nor_lies(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was committed is answered as committed, and the writer lives on, whatever its surroundings do."""

    def stumbling() -> None:
        raise RuntimeError("nobody listens")

    monkeypatch.setattr(database._administration, "_after_commit", stumbling)
    assert await database.write(put("a", "1")) == "1"
    assert await database.write(put("b", "2")) == "2"
    assert await names(database) == ["a", "b"]


async def test_a_postgres_that_restarts_is_found_again(postgres_server: PostgresServer, postgres_url: str) -> None:
    """A crash of the server fails what was under way and nothing after it; acknowledged entries are kept."""
    with Database.open(postgres_url, StorageLimits()) as database:
        await database.append(make_entry("before"))
        postgres_server.stop(crash=True)
        try:
            with pytest.raises(AppError) as caught:
                await database.append(make_entry("during"))
            assert ErrorCode.UNAVAILABLE is caught.value.code
            assert not database.health().ok
            with pytest.raises(AppError):
                await database.read_ledger(0, 10)
        finally:
            postgres_server.start()
        async with asyncio.timeout(60):
            while not database.health().ok:  # the idle writer probes once a second
                await asyncio.sleep(0.05)
        await database.append(make_entry("after"))
        rows = await database.read_ledger(0, 10)
    assert [0, 1] == [index for index, _, _ in rows]
    assert b'"before"' in rows[0][1]
    assert b'"after"' in rows[1][1]


async def test_a_postgres_lock_is_not_waited_for_forever(postgres_url: str) -> None:
    """Somebody who holds the administration's lock costs a caller the lock timeout, not its life."""
    with (
        Database.open(postgres_url, StorageLimits(lock_timeout_seconds=0.1)) as database,
        Database.open(postgres_url, StorageLimits()) as other,
    ):
        go_on = threading.Event()
        locked = threading.Event()

        def holding(transaction: SqlTransaction) -> None:
            transaction.lock()
            locked.set()
            assert go_on.wait(30)

        held = asyncio.ensure_future(other.write(holding))
        await asyncio.to_thread(locked.wait, 30)
        with pytest.raises(AppError) as caught:
            await database.write(lambda transaction: transaction.lock())
        assert ErrorCode.UNAVAILABLE is caught.value.code
        await database.append(make_entry("a"))  # issuing does not wait for administration
        go_on.set()
        await held


async def test_every_postgres_connection_has_its_timeouts(postgres_url: str) -> None:
    """Statement, lock and idle-in-transaction timeouts are those of the settings, for readers and writers."""
    limits = StorageLimits(statement_timeout_seconds=4, lock_timeout_seconds=2, idle_in_transaction_seconds=9)

    def settings(transaction: SqlTransaction) -> list[str]:
        shown = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "synchronous_commit")
        return [str(transaction.connection.execute(text(f"SHOW {name}")).scalar_one()) for name in shown]

    with Database.open(postgres_url, limits) as database:
        assert await database.read(settings) == ["4s", "2s", "9s", "on"]
        assert await database.write(settings) == ["4s", "2s", "9s", "on"]


async def fill(database: Database) -> None:
    for number in range(10_000):
        await database.append(make_entry(f"subject-{number}", padding="x" * 500))


async def test_a_full_sqlite_is_a_clear_refusal_and_heals(tmp_path: Path) -> None:
    """Disk full: refused, said in readiness, nothing half stored; when there is room again all is well."""

    def bound_to(pages: int) -> Callable[[SqlTransaction], None]:
        def work(transaction: SqlTransaction) -> None:
            transaction.connection.exec_driver_sql(f"PRAGMA max_page_count={pages}").close()

        return work

    with Database.open(new_sqlite(tmp_path / "g.db"), StorageLimits()) as database:
        await database.write(bound_to(1))  # SQLite takes the present size instead
        with pytest.raises(AppError) as caught:
            await fill(database)
        stored = len(await database.read_ledger(0, 10_000))
        assert ErrorCode.UNAVAILABLE is caught.value.code
        assert "disk" in caught.value.detail
        assert "disk" in database.health().reason
        assert stored > 0  # and reads go on
        await database.write(bound_to(1_000_000))
        await database.append(make_entry("after"))
        assert database.health().ok
        assert len(await database.read_ledger(0, 10_000)) == stored + 1
        check = await database.read(
            lambda transaction: transaction.connection.execute(text("PRAGMA integrity_check")).scalar_one()
        )
        assert check == "ok"
