"""Opening a database: migrations, the lock of SQLite, and what is refused."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from app.errors import AppError, ErrorCode
from app.limits import StorageLimits
from app.storage.database import Database
from app.storage.engines import create_engines, parse_url
from app.storage.migrate import alembic_config, migrations_directory
from app.storage.tables import metadata
from tests.contract.conftest import make_entry

ROOT = Path(__file__).parents[2]


async def test_metadata_and_migrations_agree(empty_database_url: str) -> None:
    """What the migrations make is what the code believes in, on both databases."""

    def compare(connection: object) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))  # type: ignore[arg-type]

    with Database.open(empty_database_url, StorageLimits()) as database:
        assert [] == await database.read(lambda transaction: compare(transaction.connection))


async def test_case_122_a_newer_schema_is_refused(database_url: str) -> None:
    """A database of a newer program stays closed to this one, and the message says what to do."""
    with Database.open(database_url, StorageLimits()) as database:
        await database.append(make_entry("kept"))
        await database.write(
            lambda transaction: transaction.connection.execute(
                text("UPDATE alembic_version SET version_num = '9999_from_the_future'")
            ).close()
        )
    with pytest.raises(AppError) as caught:
        Database.open(database_url, StorageLimits())
    assert ErrorCode.FAILED_PRECONDITION is caught.value.code
    assert "newer" in caught.value.detail
    assert "9999_from_the_future" in caught.value.detail


def test_an_old_schema_is_left_alone_when_migrating_is_off(empty_database_url: str) -> None:
    """With migration off nothing is created, and the message names the way on."""
    with pytest.raises(AppError) as caught:
        Database.open(empty_database_url, StorageLimits(), migrate=False)
    assert ErrorCode.FAILED_PRECONDITION is caught.value.code
    assert "migrate" in caught.value.detail
    Database.open(empty_database_url, StorageLimits()).close()
    Database.open(empty_database_url, StorageLimits(), migrate=False).close()


async def test_what_was_possibly_signed_before_is_listed_after_a_migration(empty_database_url: str) -> None:
    """Intents of a schema that had no table of them; those with a certificate are none."""
    engines = create_engines(parse_url(empty_database_url), StorageLimits())
    entries = [make_entry("id", serial=serial) for serial in ("a1", "b2")]
    with engines.writer.begin() as connection:
        command.upgrade(alembic_config(connection), "0005")
        for number, entry in enumerate(entries):
            connection.execute(
                text(
                    "INSERT INTO ledger (uid, leaf_index, kind, subject, time, data, leaf_hash) "
                    "VALUES (:uid, :number, :kind, 'id', 0, :data, :uid)"
                ),
                {"uid": b"%d" % number, "number": number, "kind": entry.kind.value, "data": entry.to_bytes()},
            )
        connection.execute(
            text(
                "INSERT INTO certificates (uid, serial, authority, identity, node, cluster, purpose, bundle, key_hash) "
                "SELECT uid, 'a1', '', 'id', '', '', '', '', '' FROM ledger WHERE leaf_index = 0"
            )
        )
    engines.dispose()
    with Database.open(empty_database_url, StorageLimits()) as database:
        found = await database.read(lambda transaction: transaction.ledger.open_intents(after="", limit=10))
    assert ["b2"] == [intent.serial for intent in found]


def test_two_replicas_may_start_at_once(empty_postgres_url: str) -> None:
    """The migration takes a lock, so the second finds the schema made."""
    program = "import sys; from app.storage.database import Database; from app.limits import StorageLimits\n"
    program += "Database.open(sys.argv[1], StorageLimits()).close()"
    started = [
        subprocess.Popen([sys.executable, "-c", program, empty_postgres_url], cwd=ROOT, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    assert [(0, b"")] * 3 == [(process.wait(60), process.communicate()[1]) for process in started]


def test_a_second_process_on_one_sqlite_file_is_refused(tmp_path: Path) -> None:
    """One file, one process: the second is told who holds it, and the first is not disturbed."""
    url = f"sqlite:///{tmp_path / 'g.db'}"
    program = (
        "import sys; from app.storage.database import Database; from app.limits import StorageLimits\n"
        "from app.errors import AppError\n"
        "try: Database.open(sys.argv[1], StorageLimits())\n"
        "except AppError as error: print(error.code.value, error.detail); sys.exit(7)\n"
    )
    command = [sys.executable, "-c", program, url]
    with Database.open(url, StorageLimits()):
        second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (7, "") == (second.returncode, second.stderr)
    assert second.stdout.startswith("failed_precondition the database is in use by another process")
    assert f"pid {os.getpid()}" in second.stdout
    Database.open(url, StorageLimits()).close()  # the lock is free again


def test_the_sqlite_files_are_private(tmp_path: Path) -> None:
    """Database, journal, shared memory and lock are readable by their owner only."""
    with Database.open(f"sqlite:///{tmp_path / 'g.db'}", StorageLimits()):
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert {"g.db": 0o600, "g.db-wal": 0o600, "g.db-shm": 0o600, "g.db.lock": 0o600} == modes


@pytest.mark.parametrize(
    "url", ["", "mysql://x/y", "sqlite://", "sqlite:///:memory:", "postgresql+asyncpg://x/y", "::"]
)
def test_other_urls_are_refused_by_name(url: str) -> None:
    """Only the two forms we know; the message shows them."""
    with pytest.raises(AppError) as caught:
        Database.open(url, StorageLimits())
    assert ErrorCode.INVALID is caught.value.code
    assert "sqlite:///" in caught.value.detail


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    """No folder is made silently."""
    with pytest.raises(AppError) as caught:
        Database.open(f"sqlite:///{tmp_path}/absent/g.db", StorageLimits())
    assert ErrorCode.UNAVAILABLE is caught.value.code
    assert "absent" in caught.value.detail


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """Foreign bytes are neither migrated nor overwritten."""
    path = tmp_path / "g.db"
    path.write_bytes(b"this is not a database, it is a letter" * 100)
    with pytest.raises(AppError) as caught:
        Database.open(f"sqlite:///{path}", StorageLimits())
    assert ErrorCode.UNAVAILABLE is caught.value.code
    assert path.read_bytes() == b"this is not a database, it is a letter" * 100


def test_an_unreachable_postgres_is_said_quickly(tmp_path: Path) -> None:
    """Nobody listens: one line, no stack of a driver."""
    with pytest.raises(AppError) as caught:
        Database.open(f"postgresql+psycopg://u:secret@/x?host={tmp_path}", StorageLimits())
    assert ErrorCode.UNAVAILABLE is caught.value.code
    assert "\n" not in caught.value.detail
    assert "secret" not in caught.value.detail


def test_the_migrations_are_found() -> None:
    """In a checkout they lie at its top, in an installed wheel beside the code."""
    assert (migrations_directory() / "env.py").is_file()
