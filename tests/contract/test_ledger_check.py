"""R19 on stored logs: whatever is changed in the database is found, and the first bad index is named."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta

import pytest
from sqlalchemy import Connection, select, text

from app.errors import AppError
from app.ledger.entry import EntryKind, leaf_hash
from app.limits import StorageLimits
from app.storage.database import Database
from app.storage.fsck import check_database, check_rows
from app.storage.ledger_check import check_tree
from app.storage.tables import ledger, ledger_subtrees
from tests.contract.conftest import make_entry
from tests.support.ledger import LEDGER_KEY, NOW, a_turn, number_all

SIZE = 600  # two complete subtrees of 256 leaves, and a third that is not


async def fill(database: Database, count: int = SIZE) -> None:
    for piece in range(0, count, 100):
        await asyncio.gather(*(database.append(make_entry(f"subject-{piece + n}")) for n in range(100)))
        await number_all(database, a_turn(now=NOW + timedelta(seconds=piece)))


@contextmanager
def unprotected(database: Database) -> Iterator[Connection]:
    """A transaction without the triggers, as somebody with the database's password could have; rolled back."""
    with database._engines.writer.connect() as connection:
        transaction = connection.begin()
        if connection.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL session_replication_role = replica"))
        else:
            for name in ("ledger_number_once", "ledger_no_delete"):
                connection.execute(text(f"DROP TRIGGER {name}"))
        try:
            yield connection
        finally:
            transaction.rollback()


def refusal_of(connection: Connection, *, with_bytes: bool = True) -> str:
    with pytest.raises(AppError) as refusal:
        check_tree(connection, LEDGER_KEY.public, with_bytes=with_bytes)
    return refusal.value.detail


def named(detail: str) -> int:
    found = re.search(r"index (\d+)", detail)
    assert found, detail
    return int(found[1])


def _set(connection: Connection, index: int, column: str, value: object) -> None:
    connection.execute(text(f"UPDATE ledger SET {column} = :value WHERE leaf_index = :i"), {"value": value, "i": index})


def _row(connection: Connection, index: int) -> tuple[bytes, bytes]:
    row = connection.execute(select(ledger.c.data, ledger.c.leaf_hash).where(ledger.c.leaf_index == index)).one()
    return bytes(row.data), bytes(row.leaf_hash)


def _flipped(data: bytes, generator: random.Random) -> bytes:
    changed = bytearray(data)
    changed[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
    return bytes(changed)


def flip_data(connection: Connection, index: int, generator: random.Random) -> int:
    _set(connection, index, "data", _flipped(_row(connection, index)[0], generator))
    return index


def flip_leaf_hash(connection: Connection, index: int, generator: random.Random) -> int:
    _set(connection, index, "leaf_hash", _flipped(_row(connection, index)[1], generator))
    return index


def forge(connection: Connection, index: int, _generator: random.Random) -> int:
    """Bytes and leaf hash changed together, so that the row by itself looks right."""
    _set(connection, index, "data", b"{}")
    _set(connection, index, "leaf_hash", leaf_hash(b"{}"))
    return index


def turn_into_text(connection: Connection, index: int, generator: random.Random) -> int:
    """In SQLite a text where bytes were; in PostgreSQL other bytes."""
    if connection.dialect.name == "postgresql":
        return flip_data(connection, index, generator)
    connection.execute(text("UPDATE ledger SET data = CAST(data AS TEXT) WHERE leaf_index = :i"), {"i": index})
    return index


def delete(connection: Connection, index: int, _generator: random.Random) -> int:
    connection.execute(text("DELETE FROM ledger WHERE leaf_index = :i"), {"i": index})
    return index


def reorder(connection: Connection, index: int, generator: random.Random) -> int:
    other = generator.choice([number for number in range(SIZE) if number != index])
    for old, new in ((index, -1), (other, index), (-1, other)):
        connection.execute(
            text("UPDATE ledger SET leaf_index = :new WHERE leaf_index = :old"), {"old": old, "new": new}
        )
    return min(index, other)


def insert(connection: Connection, index: int, _generator: random.Random) -> int:
    """One row more in the middle, the others moved up."""
    for step in (1_000_000, -999_999):
        connection.execute(
            text("UPDATE ledger SET leaf_index = leaf_index + :step WHERE leaf_index >= :i"),
            {"step": step, "i": index if step > 0 else 1_000_000},
        )
    connection.execute(
        text(
            "INSERT INTO ledger (uid, leaf_index, kind, subject, time, data, leaf_hash) "
            "VALUES (:uid, :i, 'admin.act', '', 0, :data, :leaf)"
        ),
        {"uid": b"u", "i": index, "data": b"{}", "leaf": leaf_hash(b"{}")},
    )
    connection.execute(text("DELETE FROM ledger WHERE leaf_index = :i"), {"i": SIZE})  # so that the count is right
    return index


def truncate(connection: Connection, index: int, _generator: random.Random) -> int:
    connection.execute(text("DELETE FROM ledger WHERE leaf_index >= :i"), {"i": index})
    return index


MUTATIONS = (flip_data, turn_into_text, flip_leaf_hash, forge, delete, reorder, insert, truncate)


@pytest.mark.parametrize("count", [208, pytest.param(1_000, marks=pytest.mark.torture)])
async def test_every_random_mutation_is_found_and_the_first_bad_index_named(database: Database, count: int) -> None:
    """A hundred in a hundred, with the index, whether the row by itself looks right or not."""
    await fill(database)
    generator = random.Random(19)
    for number in range(count):
        mutate: Callable[[Connection, int, random.Random], int] = MUTATIONS[number % len(MUTATIONS)]
        with unprotected(database) as connection:
            expected = mutate(connection, generator.randrange(SIZE), generator)
            assert expected == named(refusal_of(connection)), mutate.__name__
    assert SIZE == await database.check_ledger(LEDGER_KEY.public, with_bytes=True)


async def test_the_start_finds_what_its_hashes_show(database: Database) -> None:
    """Without the bytes: a deleted, forged, reordered or cut off row; the bytes are for fsck."""
    await fill(database)
    for mutate in (flip_leaf_hash, forge, delete, reorder, insert, truncate):
        generator = random.Random(5)
        with unprotected(database) as connection:
            expected = mutate(connection, 300, generator)
            assert expected == named(refusal_of(connection, with_bytes=False)), mutate.__name__


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("UPDATE ledger_head SET size = size - 1", "its head is not of size 600"),
        ("UPDATE ledger_head SET frontier = tail", "its head is not the tree"),
        ("UPDATE ledger_head SET tail = substr(tail, 1, 32)", "copy of the leaf hashes from 512 on is not complete"),
        ("DELETE FROM ledger_subtrees WHERE number = 1", "the entries from 256 on is missing"),
        ("UPDATE ledger_subtrees SET root = substr(leaves, 1, 32) WHERE number = 1", "root of the entries 256 to 511"),
        ("UPDATE ledger_checkpoints SET note = replace(note, '600', '601') WHERE size = 600", "checkpoint of size 600"),
        ("UPDATE ledger_checkpoints SET size = 601 WHERE size = 600", "checkpoint of size 601 is not what was signed"),
        ("UPDATE ledger_checkpoints SET note = replace(note, 'g', 'h') WHERE size = 300", "checkpoint of size 300"),
        ("DELETE FROM ledger_checkpoints WHERE size = 600", "the entry with index 500 was never signed"),
        ("DELETE FROM ledger_head", "its head is not of size 600"),
    ],
)
async def test_changes_beside_the_rows_are_found(database: Database, statement: str, what: str) -> None:
    """The head, the kept roots, the copies of leaf hashes, the checkpoints."""
    await fill(database)
    with unprotected(database) as connection:
        connection.execute(text(statement))
        assert what in refusal_of(connection)


async def test_a_changed_copy_is_told_from_a_changed_row(database: Database) -> None:
    """The rows of a block have the signed root, so it is the second copy that is wrong."""
    await fill(database)
    with unprotected(database) as connection:
        row = connection.execute(select(ledger_subtrees).where(ledger_subtrees.c.number == 1)).one()
        leaves = bytearray(row.leaves)
        leaves[32 * 7] ^= 1
        connection.execute(
            text("UPDATE ledger_subtrees SET leaves = :leaves WHERE number = 1"), {"leaves": bytes(leaves)}
        )
        assert "the entry with index 263 holds, but the tree's own copy" in refusal_of(connection)


async def test_the_start_reads_a_bounded_number_of_rows(database: Database) -> None:
    """Older entries are covered by the stored roots of their subtrees; a change there is for fsck."""
    await fill(database)
    with unprotected(database) as connection:
        forge(connection, 3, random.Random(1))
        assert SIZE == check_tree(connection, LEDGER_KEY.public, newest_entries=200)
        assert 3 == named(refusal_of(connection))
        forge(connection, 550, random.Random(1))
        with pytest.raises(AppError, match="index 550"):
            check_tree(connection, LEDGER_KEY.public, newest_entries=200)


async def test_fsck_compares_the_table_of_certificates_with_the_entries(database: Database, database_url: str) -> None:
    """Beside a running Gatehouse: sizes, open intents, and a certificate that is said to be somebody else's."""
    detail = {"serial": "a1", "node": "node-a", "notAfter": "2026-11-24T12:00:00Z", "certificateSha256": "cc"}
    await database.append(make_entry("id", EntryKind.CERTIFICATE_INTENT, serial="a1"))
    await database.append(make_entry("id", EntryKind.CERTIFICATE_ISSUED, **detail))
    await database.append(make_entry("id", EntryKind.CERTIFICATE_INTENT, serial="b2"))
    await number_all(database)
    await database.append(make_entry("waits", EntryKind.ADMIN_ACT))

    report = await asyncio.to_thread(check_database, database_url, LEDGER_KEY.public, StorageLimits())
    assert (3, 1, 1, ("b2",)) == (report.size, report.unnumbered, report.certificates, report.unfinished)

    for statement, what in (
        ("DELETE FROM intents", "neither a certificate nor an open intent is listed for the intent of the entry with"),
        ("INSERT INTO intents (serial, uid, subject, time) SELECT 'b2', uid, 'id', 0 FROM ledger WHERE id = 3", ""),
        ("UPDATE certificates SET identity = 'another'", "another identity than the entry with index 1"),
        ("UPDATE certificates SET identity = 'id', not_after = not_after + 1", "another not_after"),
        ("UPDATE certificates SET not_after = not_after - 1, bundle = 'another'", "another bundle"),
        ("UPDATE certificates SET bundle = '', authority = 'another'", "another authority"),
        ("UPDATE certificates SET authority = '', key_hash = 'another'", "another key_hash"),
        ("UPDATE certificates SET key_hash = '', holder = 'another'", "another holder"),
        ("UPDATE certificates SET holder = '', purpose = 'serving'", "another purpose"),
        ("UPDATE certificates SET purpose = '', cluster = 'another'", "another cluster"),
        ("UPDATE certificates SET cluster = '', not_before = 1", "another not_before"),
        ("DELETE FROM certificates", "misses the one of the entry with index 1"),
    ):
        await database.write(lambda transaction, statement=statement: transaction.connection.execute(text(statement)))
        with pytest.raises(AppError, match=what) if what else nullcontext():
            await asyncio.to_thread(check_database, database_url, LEDGER_KEY.public, StorageLimits())


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("kind = 'admin.act'", "the kind beside the entry with index 1"),
        ("subject = 'another'", "the subject beside the entry with index 1"),
        ("time = time + 1", "the time beside the entry with index 1"),
    ],
)
async def test_fsck_compares_what_entries_are_looked_for_by_with_the_entries(
    database: Database, database_url: str, change: str, what: str
) -> None:
    """A certificate that is called an act of an administrator, and is in no table any more, is found all the same."""
    await database.append(make_entry("id", EntryKind.CERTIFICATE_INTENT, serial="a1"))
    await database.append(make_entry("id", EntryKind.CERTIFICATE_ISSUED, serial="a1"))
    await number_all(database)
    with unprotected(database) as connection:
        connection.execute(text("DELETE FROM certificates"))
        connection.execute(
            text(
                "INSERT INTO intents (serial, uid, subject, time) "
                "SELECT 'a1', uid, 'id', 0 FROM ledger WHERE leaf_index = 0"
            )
        )
        connection.execute(text(f"UPDATE ledger SET {change} WHERE leaf_index = 1"))
        with pytest.raises(AppError, match=what):
            check_rows(connection, LEDGER_KEY.public)


async def test_fsck_lists_every_intent_without_a_certificate(database: Database, database_url: str) -> None:
    """However many a crash left behind."""
    serials = [f"{number:04x}" for number in range(1_203)]
    await asyncio.gather(
        *(database.append(make_entry("id", EntryKind.CERTIFICATE_INTENT, serial=serial)) for serial in serials)
    )
    report = await asyncio.to_thread(check_database, database_url, LEDGER_KEY.public, StorageLimits())
    assert tuple(serials) == report.unfinished
