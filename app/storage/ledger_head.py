"""Numbering: the tree's head moves on, in one transaction that holds its row locked.

What is taken are the entries without an index, in the order of their ids, and never "all after the last": a row that
commits late has a smaller id than rows that are numbered already, and would be lost. Each leaf hash is computed anew
from the stored bytes, so that a bit that flipped at rest is found before a signature vouches for it.

A turn holds the head's row locked until its commit, so there is one at a time, whoever of the replicas takes it. Nobody
is elected and nobody waits: a replica that finds the row locked leaves the work to who holds it. When that one dies,
its connection ends and with it the lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, func, insert, select, update

from app.authority.ledger.ledger_ports import Sign, StoredCheckpoint, Turn
from app.errors import AppError, ErrorCode
from app.ledger.entry import leaf_hash
from app.ledger.frontier import STRIDE, SUBTREE_LEAVES, Frontier
from app.ledger.merkle import HASH_BYTES
from app.ledger.thinning import CheckpointAge, superfluous
from app.storage.many_rows import execute_for_rows, value_lists
from app.storage.tables import ledger, ledger_checkpoints, ledger_head, ledger_subtrees
from app.storage.upsert import chunks

_HEAD = select(ledger_head).where(ledger_head.c.id == 1)
_NEWEST = select(ledger_checkpoints).order_by(ledger_checkpoints.c.size.desc()).limit(1)
_UNNUMBERED = (
    select(ledger.c.id, ledger.c.data, ledger.c.leaf_hash)
    .where(ledger.c.leaf_index.is_(None))
    .order_by(ledger.c.id)
    .limit(bindparam("max_entries"))
)
_ANY_UNNUMBERED = select(ledger.c.id).where(ledger.c.leaf_index.is_(None)).limit(1)
_GREATEST_INDEX = select(func.max(ledger.c.leaf_index))
_NUMBER_POSTGRESQL = (
    "UPDATE ledger SET leaf_index = given.leaf_index "
    "FROM unnest(%b::int8[], %b::int8[]) AS given(id, leaf_index) WHERE ledger.id = given.id"
)


@dataclass(frozen=True, slots=True)
class _Head:
    frontier: Frontier
    tail: bytes


def damaged(what: str) -> AppError:
    """The stored ledger is not what it was: nothing more is signed."""
    return AppError(ErrorCode.FAILED_PRECONDITION, f"the ledger was changed: {what}")


def stored_bytes(value: object) -> bytes:
    """What a column holds; nothing, where it was changed into no bytes at all, as SQLite lets anybody do."""
    return bytes(value) if isinstance(value, bytes | memoryview) else b""


def newest_checkpoint(connection: Connection) -> StoredCheckpoint | None:
    """The newest checkpoint."""
    row = connection.execute(_NEWEST).one_or_none()
    return None if row is None else checkpoint_of(row)


def checkpoint_of(row: Row[Any]) -> StoredCheckpoint:
    """A row of `ledger_checkpoints`."""
    return StoredCheckpoint(size=row.size, root=bytes(row.root), note=row.note, time=row.time)


def sequence(connection: Connection, turn: Turn, sign: Sign) -> int:
    """See `app.authority.ledger.ledger_ports.SequencerStore.sequence`."""
    if connection.execute(_ANY_UNNUMBERED).one_or_none() is None:
        return 0  # without a lock, which would cost a flush
    head = _locked_head(connection)
    if head is None:
        return 0
    _check_head(connection, head)
    rows = connection.execute(_UNNUMBERED, {"max_entries": turn.max_entries}).all()
    if rows:
        tail = _append(connection, head.frontier, head.tail, rows)
        _sign(connection, head.frontier, turn, sign)
        _move_head(connection, _Head(head.frontier, tail))
    return len(rows)


def thin_checkpoints(connection: Connection, *, keep: int) -> int:
    """Forget old checkpoints, all but the newest `keep`, one an hour and one a day."""
    query = (
        select(ledger_checkpoints.c.size, ledger_checkpoints.c.time)
        .order_by(ledger_checkpoints.c.size.desc())
        .offset(keep)
    )
    found = [CheckpointAge(row.size, row.time) for row in connection.execute(query)]
    sizes = superfluous(found)
    for some in chunks(sizes):
        connection.execute(delete(ledger_checkpoints).where(ledger_checkpoints.c.size.in_(some)))
    return len(sizes)


def _locked_head(connection: Connection) -> _Head | None:
    """The head, locked; None when another replica holds it and numbers at this moment."""
    row = connection.execute(_HEAD.with_for_update(skip_locked=True)).one_or_none()  # SQLite has one writer anyway
    if row is None:
        if connection.execute(_HEAD).one_or_none() is None:
            raise damaged("the row of its head is missing")
        return None
    try:
        frontier = Frontier.parse(row.size, bytes(row.frontier))
    except ValueError:
        raise damaged("the stored roots of its head do not fit its size") from None
    if len(row.tail) != row.size % SUBTREE_LEAVES * HASH_BYTES:
        raise damaged("the last leaf hashes of its head do not fit its size")
    return _Head(frontier, bytes(row.tail))


def _check_head(connection: Connection, head: _Head) -> None:
    """Whether the head is the tree that was signed last; only that one may be extended."""
    signed = newest_checkpoint(connection)
    size, signed_size = head.frontier.size, 0 if signed is None else signed.size
    if size != signed_size or (signed is not None and head.frontier.root() != signed.root):
        raise damaged(f"its head has size {size} and is not the tree of the newest checkpoint, of size {signed_size}")
    greatest = connection.execute(_GREATEST_INDEX).scalar_one()
    if (-1 if greatest is None else greatest) != size - 1:
        raise damaged(f"its last entry has index {greatest}, and the newest checkpoint wants {size - 1}")


def _append(connection: Connection, frontier: Frontier, tail: bytes, rows: Sequence[Row[int, bytes, bytes]]) -> bytes:
    """Number the rows and store the subtrees that they complete; returns the leaf hashes after the last one."""
    leaves: list[bytes] = []
    for row_id, data, stored in rows:
        leaf = leaf_hash(stored_bytes(data))
        if leaf != stored_bytes(stored):
            raise damaged(f"the bytes of row {row_id} do not have the leaf hash that was stored with them")
        leaves.append(leaf)
    first = frontier.size
    ids, indices = [row_id for row_id, _, _ in rows], list(range(first, first + len(rows)))
    if connection.dialect.name == "postgresql":
        numbered = connection.exec_driver_sql(_NUMBER_POSTGRESQL, (ids, indices)).rowcount
    else:
        numbered = execute_for_rows(connection, _number_in_sqlite, list(zip(ids, indices, strict=True)))
    if numbered != len(rows):
        raise damaged(f"of {len(rows)} rows to number, {numbered} were there")
    hashes = tail + b"".join(leaves)
    subtrees = frontier.extend(leaves)
    if subtrees:
        lowest = first >> STRIDE  # the subtree that the tail belongs to
        connection.execute(
            insert(ledger_subtrees),
            [
                {
                    "level": one.level,
                    "number": one.number,
                    "root": one.root,
                    "leaves": _slice(hashes, one.number - lowest) if one.level == STRIDE else b"",
                }
                for one in subtrees
            ],
        )
    return hashes[len(hashes) - frontier.size % SUBTREE_LEAVES * HASH_BYTES :]


def _number_in_sqlite(count: int) -> str:
    given = f"(VALUES {value_lists(2, count)}) AS given"
    return f"UPDATE ledger SET leaf_index = given.column2 FROM {given} WHERE ledger.id = given.column1"  # noqa: S608


def _slice(hashes: bytes, number: int) -> bytes:
    width = SUBTREE_LEAVES * HASH_BYTES
    return hashes[number * width : (number + 1) * width]


def _sign(connection: Connection, frontier: Frontier, turn: Turn, sign: Sign) -> None:
    size, root = frontier.size, frontier.root()
    connection.execute(
        insert(ledger_checkpoints), {"size": size, "root": root, "note": sign(size, root), "time": turn.now}
    )


def _move_head(connection: Connection, head: _Head) -> None:
    connection.execute(
        update(ledger_head)
        .where(ledger_head.c.id == 1)
        .values(
            size=head.frontier.size,
            frontier=head.frontier.to_bytes(),
            tail=head.tail,
        )
    )
