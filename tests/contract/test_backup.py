"""R5c: a backup that is taken while entries are appended restores to a state that holds together."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from app.ledger.entry import LedgerEntry, leaf_hash
from app.limits import StorageLimits
from app.storage.database import Database
from app.storage.fsck import check_database
from tests.contract.conftest import make_entry
from tests.support.ledger import LEDGER_KEY, number_all
from tests.support.postgres import PostgresServer

BACKUPS, TORTURE_BACKUPS = 3, 10


@asynccontextmanager
async def appending(database: Database) -> AsyncIterator[list[str]]:
    """Append and number all the time; gives the subjects that were acknowledged so far, once some are numbered."""
    acknowledged: list[str] = []
    stop, numbered = asyncio.Event(), asyncio.Event()

    async def client(name: int) -> None:
        number = 0
        while not stop.is_set():
            await database.append(make_entry(f"{name}-{number}"))
            acknowledged.append(f"{name}-{number}")
            number += 1

    async def sequencer() -> None:
        while not stop.is_set():
            if await number_all(database):
                numbered.set()
            await asyncio.sleep(0.02)

    tasks = [*(asyncio.create_task(client(name)) for name in range(16)), asyncio.create_task(sequencer())]
    try:
        await numbered.wait()
        yield acknowledged
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def check_restored(url: str, acknowledged_before: set[str]) -> None:
    """It passes `fsck`, opens, holds what was acknowledged before the backup began, has no gap, and goes on."""
    report = await asyncio.to_thread(check_database, url, LEDGER_KEY.public, StorageLimits())
    assert report.size > 0
    with Database.open(url, StorageLimits()) as restored:
        rows = await restored.read_ledger(0, 1_000_000)
        assert list(range(len(rows))) == [index for index, _, _ in rows]
        assert [] == [index for index, data, digest in rows if leaf_hash(data) != digest]
        assert set() == acknowledged_before - {LedgerEntry.from_bytes(data).subject for _, data, _ in rows}
        await restored.append(make_entry("after"))
        assert len(rows) + 1 == len(await restored.read_ledger(0, 1_000_000))
        await number_all(restored)
    report = await asyncio.to_thread(check_database, url, LEDGER_KEY.public, StorageLimits())
    assert (len(rows) + 1, 0) == (report.size, report.unnumbered)


def copy_sqlite(source: Path, target: Path) -> None:
    """SQLite's online backup, through a connection of its own that reads only, as docs/operations.md says."""
    with (
        contextlib.closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as reader,
        contextlib.closing(sqlite3.connect(target)) as writer,
    ):
        reader.backup(writer, pages=-1)
        assert [("ok",)] == writer.execute("PRAGMA integrity_check").fetchall()


async def back_up_sqlite(tmp_path: Path, *, count: int) -> None:
    source = tmp_path / "gatehouse.db"
    with Database.open(f"sqlite:///{source}", StorageLimits()) as database:
        async with appending(database) as acknowledged:
            for number in range(count):
                while len(acknowledged) < 200 * (number + 1):
                    await asyncio.sleep(0.01)
                before = set(acknowledged)
                target = tmp_path / f"backup-{number}.db"
                await asyncio.to_thread(copy_sqlite, source, target)
                await check_restored(f"sqlite:///{target}", before)


async def test_a_backup_of_sqlite_under_load_holds_together(tmp_path: Path) -> None:
    """With SQLite's online backup."""
    await back_up_sqlite(tmp_path, count=BACKUPS)


@pytest.mark.torture
async def test_ten_backups_of_sqlite_under_load_hold_together(tmp_path: Path) -> None:
    """10/10."""
    await back_up_sqlite(tmp_path, count=TORTURE_BACKUPS)


async def back_up_postgres(server: PostgresServer, *, count: int) -> None:
    source = server.create_database()
    with Database.open(source, StorageLimits()) as database:
        async with appending(database) as acknowledged:
            for number in range(count):
                while len(acknowledged) < 200 * (number + 1):
                    await asyncio.sleep(0.01)
                before = set(acknowledged)
                target = server.create_database()
                await asyncio.to_thread(dump_and_restore, server, source, target)
                await check_restored(target, before)


def dump_and_restore(server: PostgresServer, source: str, target: str) -> None:
    """pg_dump into psql."""
    become, account = server.as_account()
    tools = {name: server.binaries / name for name in ("pg_dump", "psql")}
    common = ["-h", str(server.directory), "-U", "gatehouse"]
    dump = subprocess.run(
        [*become, tools["pg_dump"], *common, _name(source)], capture_output=True, check=True, cwd="/", **account
    )
    subprocess.run(
        [*become, tools["psql"], *common, "-q", "-v", "ON_ERROR_STOP=1", "-d", _name(target)],
        input=dump.stdout,
        capture_output=True,
        check=True,
        cwd="/",
        env={**os.environ, "PGTZ": "UTC"},
        **account,
    )


def _name(url: str) -> str:
    return url.partition("?")[0].rpartition("/")[2]


def _tools(server: PostgresServer) -> PostgresServer:
    if not (server.binaries / "pg_dump").exists() or not (server.binaries / "psql").exists():
        pytest.skip("pg_dump and psql are missing: they come with PostgreSQL's client programs")
    return server


@pytest.mark.postgres
async def test_a_backup_of_postgresql_under_load_holds_together(postgres_server: PostgresServer) -> None:
    """With pg_dump."""
    await back_up_postgres(_tools(postgres_server), count=BACKUPS)


@pytest.mark.postgres
@pytest.mark.torture
async def test_ten_backups_of_postgresql_under_load_hold_together(postgres_server: PostgresServer) -> None:
    """10/10."""
    await back_up_postgres(_tools(postgres_server), count=TORTURE_BACKUPS)
