"""What makes an acknowledgement mean something: flushes, and silence after a flush that failed.

Killing a process cannot show a missing flush (the page cache survives it), so the system calls are counted.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from app.limits import StorageLimits
from app.storage.database import Database
from app.storage.transaction import SqlTransaction

ROOT = Path(__file__).parents[2]
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is missing: apt-get install strace")

PROGRAM = """
import asyncio, sys
from datetime import UTC, datetime
from app.errors import AppError
from app.ledger.entry import EntryKind, LedgerEntry
from app.limits import StorageLimits
from app.storage.database import Database

def entry(subject):
    return LedgerEntry(kind=EntryKind.ADMIN_ACT, time=datetime.now(UTC), actor="a", subject=subject)

async def main(database):
    acknowledged, refused, late = 0, 0, 0
    for _ in range(20):
        try:
            await database.append(entry("x"))
            acknowledged += 1
            late += bool(refused)
        except AppError as error:
            assert error.code.value == "unavailable", error
            refused += 1
    before = database.figures().commits
    results = await asyncio.gather(*(database.append(entry("y")) for _ in range(200)), return_exceptions=True)
    grouped = sum(1 for result in results if result is None)
    health = database.health()
    print(acknowledged, refused, late, grouped, database.figures().commits, health.ok, health.fatal)

with Database.open(sys.argv[1], StorageLimits()) as database:
    asyncio.run(main(database))
"""


def run_traced(tmp_path: Path, *options: str) -> tuple[list[str], int]:
    """Run the program under strace; its words, and how often it flushed."""
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-e", "trace=fdatasync,fsync", *options, "-o", str(trace)]
    result = subprocess.run(
        [*command, sys.executable, "-c", PROGRAM, f"sqlite:///{tmp_path / 'g.db'}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()[-1].split(), trace.read_text().count("sync(")


@needs_strace
def test_every_sqlite_commit_is_flushed_and_many_units_share_one(tmp_path: Path) -> None:
    """At least one flush a commit; 220 appends, of which 200 came at once, take far fewer commits."""
    words, flushes = run_traced(tmp_path)
    acknowledged, refused, _, grouped, commits = map(int, words[:5])
    assert (20, 0, 200) == (acknowledged, refused, grouped)
    assert 20 < commits < 60
    assert flushes >= commits


@needs_strace
def test_after_a_failed_flush_nothing_is_acknowledged_any_more(tmp_path: Path) -> None:
    """R2c: an fsync that fails once may have lost what it covered, so this process never says yes again."""
    Database.open(f"sqlite:///{tmp_path / 'g.db'}", StorageLimits()).close()  # so that the fault does not meet this
    words, _ = run_traced(tmp_path, "-e", "inject=fdatasync:error=EIO:when=5")
    acknowledged, refused, late, grouped, _ = map(int, words[:5])
    assert acknowledged + refused == 20
    assert refused >= 15
    assert (0, 0) == (late, grouped)
    assert ["False", "True"] == words[5:]


async def test_sqlite_runs_with_the_settings_that_make_commits_durable(tmp_path: Path) -> None:
    """WAL with full synchronisation and foreign keys for the writer; readers cannot write or checkpoint."""

    def pragmas(transaction: SqlTransaction) -> dict[str, object]:
        names = ("journal_mode", "synchronous", "foreign_keys", "query_only", "wal_autocheckpoint")
        return {name: transaction.connection.execute(text(f"PRAGMA {name}")).scalar_one() for name in names}

    with Database.open(f"sqlite:///{tmp_path / 'g.db'}", StorageLimits()) as database:
        writer, reader = await database.write(pragmas), await database.read(pragmas)
    assert ("wal", 2, 1, 0) == tuple(
        writer[name] for name in ("journal_mode", "synchronous", "foreign_keys", "query_only")
    )
    assert ("wal", 1, 0) == tuple(reader[name] for name in ("journal_mode", "query_only", "wal_autocheckpoint"))
