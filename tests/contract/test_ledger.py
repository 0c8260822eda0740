"""The contract of the ledger port."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from app.errors import AppError, ErrorCode
from app.ledger.entry import EntryKind, LedgerEntry, leaf_hash
from app.limits import StorageLimits
from app.storage.database import Database
from app.storage.tables import certificates
from app.storage.transaction import SqlTransaction
from tests.contract.conftest import make_entry

WRITER = """
import asyncio, os, sys
from datetime import UTC, datetime
from app.ledger.entry import EntryKind, LedgerEntry
from app.limits import StorageLimits
from app.storage.database import Database

async def client(database, name):
    for number in range(1_000_000):
        subject = f"{name}-{number}"
        await database.append(
            LedgerEntry(kind=EntryKind.CERTIFICATE_ISSUED, time=datetime.now(UTC), actor="a", subject=subject)
        )
        os.write(1, (subject + "\\n").encode())

async def main(database):
    await asyncio.gather(*(client(database, name) for name in range(32)))

with Database.open(sys.argv[1], StorageLimits()) as database:
    asyncio.run(main(database))
"""


async def test_an_entry_is_stored_with_its_bytes_and_its_leaf_hash(database: Database, entry: LedgerEntry) -> None:
    """What is stored is exactly what is hashed and proved later."""
    await database.append(entry)
    assert await database.read_ledger(0, 10) == ((0, entry.to_bytes(), leaf_hash(entry.to_bytes())),)


async def test_indices_of_many_concurrent_appends_have_no_gap(database: Database) -> None:
    """Grouped or not, the entries are numbered from 0 on without a gap."""
    await asyncio.gather(*(database.append(make_entry(f"subject-{number}")) for number in range(500)))
    rows = await database.read_ledger(0, 1_000)
    assert list(range(500)) == [index for index, _, _ in rows]
    assert len({data for _, data, _ in rows}) == 500


async def test_appends_share_commits(database: Database) -> None:
    """Many callers at once pay for a few flushes, not for one each."""
    before = database.figures()
    await asyncio.gather(*(database.append(make_entry(f"subject-{number}")) for number in range(500)))
    after = database.figures()
    assert after.units - before.units == 500
    assert after.commits - before.commits < 50


async def test_a_failed_unit_leaves_no_gap_in_the_ledger(database: Database) -> None:
    """A unit that fails takes its entry with it, and the indices of the others stay dense."""

    def failing(transaction: SqlTransaction) -> None:
        transaction.record(make_entry("lost"))
        raise AppError(ErrorCode.INVALID, "no")

    def recording(transaction: SqlTransaction) -> None:
        transaction.record(make_entry("kept"))

    results = await asyncio.gather(
        database.append(make_entry("one")),
        database.write(failing),
        database.write(recording),
        database.append(make_entry("two")),
        return_exceptions=True,
    )
    assert ErrorCode.INVALID is results[1].code  # type: ignore[union-attr]
    rows = await database.read_ledger(0, 10)
    assert [0, 1, 2] == [index for index, _, _ in rows]
    assert not any(b'"lost"' in data for _, data, _ in rows)


async def test_an_entry_that_is_not_json_fails_alone(database: Database, entry: LedgerEntry) -> None:
    """Bad detail is the caller's error and reaches no database."""
    with pytest.raises(TypeError):
        await database.append(make_entry("bad", detail=object()))
    await database.append(entry)
    assert len(await database.read_ledger(0, 10)) == 1


async def test_an_issued_certificate_can_be_looked_for(database: Database) -> None:
    """Serial, identity, node and expiry stand in columns, in the same transaction."""
    await database.append(
        make_entry(
            "spiffe://cluster.local/ns/a/sa/b",
            EntryKind.CERTIFICATE_ISSUED,
            serial="0a1b",
            node="node-a",
            notAfter="2026-11-24T12:00:00+00:00",
        )
    )
    row = await database.read(lambda transaction: transaction.connection.execute(select(certificates)).one())
    assert (row.serial, row.identity, row.node) == (
        "0a1b",
        "spiffe://cluster.local/ns/a/sa/b",
        "node-a",
    )
    assert row.not_after.isoformat() == "2026-11-24T12:00:00+00:00"


@pytest.mark.parametrize("statement", ["UPDATE ledger SET subject = 'x'", "DELETE FROM ledger"])
async def test_rows_can_be_neither_changed_nor_deleted(database: Database, entry: LedgerEntry, statement: str) -> None:
    """The database itself refuses, whoever asks."""
    await database.append(entry)
    with pytest.raises(AppError):
        await database.write(lambda transaction: transaction.connection.execute(text(statement)))
    assert await database.read_ledger(0, 10) == ((0, entry.to_bytes(), leaf_hash(entry.to_bytes())),)


async def test_the_ledger_survives_a_restart(database_url: str, entry: LedgerEntry) -> None:
    """Numbering goes on where it stopped."""
    for expected in (1, 2):
        with Database.open(database_url, StorageLimits()) as database:
            await database.append(entry)
            assert expected == (await database.read(lambda transaction: transaction.status())).ledger_entries
            assert expected == len(await database.read_ledger(0, 10))


async def test_hostile_text_is_stored_as_it_is(database: Database) -> None:
    """NUL, quotes and line breaks in a subject harm neither the columns nor the canonical bytes."""
    hostile = make_entry("a\x00b'; DROP TABLE ledger; --\n\u202e")
    await database.append(hostile)
    assert await database.read_ledger(0, 10) == ((0, hostile.to_bytes(), leaf_hash(hostile.to_bytes())),)


def test_killing_the_writer_loses_nothing_that_was_acknowledged(database_url: str) -> None:
    """Kill -9 under load: every acknowledged entry is there after a restart, and the indices are dense."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, database_url],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stdout is not None
    acknowledged = [process.stdout.readline() for _ in range(2_000)]
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read()
    process.stdout.close()
    process.wait()
    acknowledged += rest.splitlines(keepends=True)
    subjects = {line.strip().decode() for line in acknowledged if line.endswith(b"\n")}
    assert len(subjects) >= 2_000
    with Database.open(database_url, StorageLimits()) as database:
        rows = asyncio.run(database.read_ledger(0, 10_000_000))
    stored = {_subject(data) for _, data, _ in rows}
    assert set() == subjects - stored
    assert list(range(len(rows))) == [index for index, _, _ in rows]


def _subject(data: bytes) -> str:
    return data.partition(b'"subject":"')[2].partition(b'"')[0].decode()


async def test_replicas_number_one_ledger_without_a_gap(postgres_url: str) -> None:
    """Two processes' worth of writers on one PostgreSQL share one gap-free numbering."""
    limits = StorageLimits()
    with Database.open(postgres_url, limits) as one, Database.open(postgres_url, limits) as two:
        await asyncio.gather(
            *(replica.append(make_entry(f"{number}")) for number in range(300) for replica in (one, two))
        )
        rows = await one.read_ledger(0, 1_000)
    assert list(range(600)) == [index for index, _, _ in rows]


async def test_a_raw_change_is_refused_by_the_database_too(database: Database, entry: LedgerEntry) -> None:
    """The refusal comes from a trigger, so it also binds whoever opens the database by other means."""
    await database.append(entry)
    with pytest.raises(DBAPIError, match="never changed"), database._engines.writer.begin() as connection:
        connection.execute(text("UPDATE ledger SET subject = 'x', leaf_index = 7"))
