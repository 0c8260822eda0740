"""The contract of numbering: dense, once, by whoever comes first, and never over what was changed."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from app.authority.ledger.ledger_ports import EntryQuery
from app.errors import AppError, ErrorCode
from app.ledger.checkpoint import Checkpoint
from app.ledger.entry import EntryKind
from app.ledger.frontier import range_hash
from app.ledger.merkle import consistency_ranges, root_hash, verify_consistency
from app.limits import StorageLimits
from app.storage import ledger_head
from app.storage.database import Database
from app.storage.ledger_rows import PreparedEntry
from tests.contract.conftest import make_entry
from tests.support.ledger import LEDGER_KEY, NOW, a_turn, number_all

REPLICA = """
import asyncio, sys
from datetime import UTC, datetime
from app.authority.ledger.ledger_ports import Turn
from app.ledger.entry import EntryKind, LedgerEntry
from app.limits import StorageLimits
from app.storage.database import Database
from tests.support.ledger import LEDGER_KEY

async def fill(database, name):
    for number in range(1_000_000):
        subject = f"{name}-{number}"
        await database.append(
            LedgerEntry(kind=EntryKind.ADMIN_ACT, time=datetime.now(UTC), actor="a", subject=subject)
        )

async def number(database):
    while True:
        numbered = await database.sequence(Turn(now=datetime.now(UTC), max_entries=64), LEDGER_KEY.sign)
        print(numbered, flush=True)
        await asyncio.sleep(0.005)

async def main(database, holder):
    await asyncio.gather(*(fill(database, f"{holder}-{n}") for n in range(4)), number(database))

with Database.open(sys.argv[1], StorageLimits()) as database:
    asyncio.run(main(database, sys.argv[2]))
"""


async def fill(database: Database, count: int) -> None:
    await asyncio.gather(*(database.append(make_entry(f"subject-{number}")) for number in range(count)))


async def run(database: Database, statement: str) -> None:
    """Change what the triggers protect, as somebody with the database's password could."""

    def work() -> None:
        with database._engines.writer.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SET LOCAL session_replication_role = replica"))
                connection.execute(text(statement))
            else:
                triggers = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")).all()
                for name, _ in triggers:
                    connection.execute(text(f"DROP TRIGGER {name}"))
                connection.execute(text(statement))
                for _, sql in triggers:
                    connection.exec_driver_sql(sql)

    await asyncio.to_thread(work)


async def assert_consistent(database: Database) -> int:
    """Indices are dense, every checkpoint is signed, is the tree of its size, and extends the one before."""

    def work(transaction: object) -> int:
        rows = transaction.ledger  # type: ignore[attr-defined]
        checkpoints = rows.checkpoints(first=0, limit=100_000)
        leaves = rows.hashes(0, 0, checkpoints[-1].size)
        for old, new in itertools.pairwise(checkpoints):
            assert Checkpoint.parse(new.note) == LEDGER_KEY.public.verify(new.note)
            proof = [range_hash(rows, *part) for part in consistency_ranges(old.size, new.size)]
            assert verify_consistency(old.size, old.root, new.size, new.root, proof)
        assert root_hash(leaves) == checkpoints[-1].root
        return checkpoints[-1].size

    return await database.read(work)


async def test_entries_are_numbered_after_they_were_stored(database: Database) -> None:
    """Stored without index; a turn gives dense ones, and a signed checkpoint covers them."""
    await fill(database, 700)
    state = await database.ledger_state(max_counted=1_000)
    assert (0, 700, None) == (state.size, state.unnumbered, state.newest)
    done = await number_all(database)
    state = await database.ledger_state(max_counted=1_000)

    assert 700 == done
    assert state.newest is not None
    assert (700, 0, 700) == (state.size, state.unnumbered, state.newest.size)
    assert 700 == await assert_consistent(database)
    entries, _ = await database.read(lambda transaction: transaction.ledger.entries(EntryQuery(limit=1_000)))
    assert list(range(700)) == [entry.index for entry in entries]


async def test_numbering_goes_on_in_pieces_and_after_a_restart(database_url: str) -> None:
    """Whatever the size of the turns, and whoever comes next, the tree is one."""
    for round_ in range(3):
        with Database.open(database_url, StorageLimits()) as database:
            await fill(database, 150)
            await number_all(database, a_turn(now=NOW + timedelta(hours=round_), max_entries=33))
            assert 150 * (round_ + 1) == await assert_consistent(database)
            assert 150 * (round_ + 1) == await database.check_ledger(LEDGER_KEY.public, with_bytes=True)


async def test_a_turn_without_entries_signs_nothing(database: Database) -> None:
    """No checkpoint is signed twice, and none of an empty log."""
    assert 0 == await number_all(database)
    assert (await database.ledger_state(max_counted=1)).newest is None
    await fill(database, 1)
    await number_all(database)
    before = await database.ledger_state(max_counted=1)
    await number_all(database)
    assert before == await database.ledger_state(max_counted=1)


async def test_an_entry_that_commits_late_is_numbered_too(postgres_url: str) -> None:
    """A smaller id than rows that have an index already: found, because it has none."""
    with Database.open(postgres_url, StorageLimits()) as database:
        connection = database._engines.writer.connect()
        late = connection.begin()
        connection.execute(
            text(
                "INSERT INTO ledger (uid, kind, subject, time, data, leaf_hash) "
                "VALUES ('late', 'admin.act', 's', 0, 'x', sha256('\\x0078'))"
            )
        )
        await fill(database, 10)
        await number_all(database)
        late.commit()
        connection.close()
        await fill(database, 10)
        await number_all(database)
        assert 21 == await assert_consistent(database)


async def test_storing_an_entry_twice_stores_it_once(database: Database) -> None:
    """The same uid with the same bytes, in one commit and in another: one row, and no complaint."""
    prepared = PreparedEntry.prepare(make_entry("x", EntryKind.CERTIFICATE_ISSUED, serial="1"))
    await asyncio.gather(*(database._ledger.submit(entries=(prepared, prepared)) for _ in range(3)))
    await database._ledger.submit(entries=(prepared,))
    assert 1 == len(await database.read_ledger(0, 10))


async def test_another_entry_under_a_known_uid_is_refused_alone(database: Database) -> None:
    """Other bytes under the same uid are an error of who gave them, not of whoever shares the commit."""
    first = PreparedEntry.prepare(make_entry("x"))
    other = PreparedEntry(make_entry("y"), make_entry("y").to_bytes(), first.uid)
    await database._ledger.submit(entries=(first,))
    results = await asyncio.gather(
        database._ledger.submit(entries=(other,)), database.append(make_entry("z")), return_exceptions=True
    )
    assert isinstance(results[0], AppError)
    assert results[1] is None
    assert 2 == len(await database.read_ledger(0, 10))


async def test_an_intent_is_open_until_its_certificate_is_on_record(database: Database) -> None:
    """What was going to be signed is listed until the certificate is stored."""
    for serial in ("a1", "b2"):
        await database.append(make_entry("id", EntryKind.CERTIFICATE_INTENT, serial=serial))
    await database.append(make_entry("id", EntryKind.CERTIFICATE_ISSUED, serial="a1"))
    await database.append(make_entry("id", EntryKind.CERTIFICATE_ISSUED, serial="c3"))
    await database.append(make_entry("id", EntryKind.CERTIFICATE_INTENT, serial="c3"))  # stored late, from a journal
    found = await database.read(lambda transaction: transaction.ledger.open_intents(after="", limit=10))
    assert ["b2"] == [intent.serial for intent in found]


async def test_a_flipped_bit_stops_numbering_and_is_named(database: Database) -> None:
    """The leaf hash is computed anew from the bytes before anything is signed; nothing else is numbered either."""
    await fill(database, 5)
    await number_all(database)
    before = await database.ledger_state(max_counted=10)
    await fill(database, 3)
    await run(database, "UPDATE ledger SET data = leaf_hash WHERE id = 7")
    with pytest.raises(AppError, match=r"changed: the bytes of row 7 ") as refusal:
        await number_all(database)
    after = await database.ledger_state(max_counted=10)

    assert ErrorCode.FAILED_PRECONDITION is refusal.value.code
    assert before.newest == after.newest
    assert 3 == after.unnumbered
    await database.append(make_entry("issuing goes on"))


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM ledger WHERE leaf_index = 4",
        "UPDATE ledger_head SET size = 4",
        "UPDATE ledger_checkpoints SET root = (SELECT leaf_hash FROM ledger WHERE leaf_index = 0)",
        "DELETE FROM ledger_checkpoints",
        "DELETE FROM ledger_head",
    ],
)
async def test_nothing_is_signed_that_does_not_extend_the_last_checkpoint(database: Database, statement: str) -> None:
    """The head must be the tree that was signed last, and the rows must reach up to it."""
    await fill(database, 5)
    await number_all(database)
    await fill(database, 1)
    await run(database, statement)
    with pytest.raises(AppError, match="the ledger was changed"):
        await number_all(database)


async def test_a_replica_leaves_to_another_one_what_that_one_is_numbering(postgres_url: str) -> None:
    """It waits for nobody; and when the other one is gone in the middle of it, it does the work itself."""
    limits = StorageLimits()
    with Database.open(postgres_url, limits) as one, Database.open(postgres_url, limits) as two:
        await fill(one, 3)
        connection = one._engines.writer.connect()
        connection.begin()
        assert 3 == ledger_head.sequence(connection, a_turn(), LEDGER_KEY.sign)
        await fill(two, 3)
        assert 0 == await two.sequence(a_turn(), LEDGER_KEY.sign)
        connection.invalidate()
        connection.close()
        numbered = 0
        async with asyncio.timeout(30):  # the server has yet to notice that the connection is gone
            while not numbered:
                numbered = await two.sequence(a_turn(), LEDGER_KEY.sign)
        assert 6 == numbered
        assert 0 == await one.sequence(a_turn(), LEDGER_KEY.sign)
        assert 6 == await assert_consistent(one)


async def test_killing_a_replica_that_numbers_leaves_one_dense_consistent_log(postgres_url: str) -> None:
    """Two replicas write and number at once, one is killed in the middle of it; the other goes on, without a pause."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with Database.open(postgres_url, StorageLimits()):
        pass  # migrated before both start
    replicas = {
        name: subprocess.Popen(
            [sys.executable, "-c", REPLICA, postgres_url, name], stdout=subprocess.PIPE, cwd=root, env=environment
        )
        for name in ("one", "two")
    }
    try:
        for replica in replicas.values():
            _await_numbered(replica, 3)
        replicas["one"].send_signal(signal.SIGKILL)
        _await_numbered(replicas["two"], 10)
    finally:
        for replica in replicas.values():
            replica.kill()
            replica.wait()
            assert replica.stdout is not None
            replica.stdout.close()
    with Database.open(postgres_url, StorageLimits()) as database:
        await number_all(database)
        state = await database.ledger_state(max_counted=10)
        assert 0 == state.unnumbered
        assert state.size == await assert_consistent(database)


def _await_numbered(replica: subprocess.Popen[bytes], turns: int) -> None:
    """Until the replica has numbered something so many times."""
    assert replica.stdout is not None
    while turns:
        line = replica.stdout.readline()
        assert line, "the replica ended"
        turns -= int(line) > 0


async def test_old_checkpoints_are_thinned_and_the_rest_still_proves(database: Database) -> None:
    """The newest stay, of older ones one an hour; the log stays whole."""
    for minute in range(0, 180, 20):
        await fill(database, 2)
        await number_all(database, a_turn(now=NOW + timedelta(minutes=minute)))
    gone = await database.thin_checkpoints(keep=2)
    kept = await database.read(lambda transaction: transaction.ledger.checkpoints(first=0, limit=100))
    assert 4 == gone
    assert [6, 12, 14, 16, 18] == [checkpoint.size for checkpoint in kept]
    assert 18 == await database.check_ledger(LEDGER_KEY.public, with_bytes=True)
