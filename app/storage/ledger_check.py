"""Is the stored ledger what was signed? For the start of the authority (hashes only) and for `fsck` (every byte).

Streams the rows in blocks of 256 entries. What the signed checkpoint proves are the roots of the blocks; a block whose
rows do not have that root is compared with the second copy of its leaf hashes, so that the first changed entry is
named by its index and not only noticed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, func, select

from app.authority.ledger.ledger_ports import StoredCheckpoint
from app.errors import AppError
from app.ledger.checkpoint import LogKey
from app.ledger.entry import leaf_hash
from app.ledger.frontier import STRIDE, SUBTREE_LEAVES, Frontier
from app.ledger.merkle import HASH_BYTES, root_hash
from app.storage.ledger_head import checkpoint_of, damaged, newest_checkpoint, stored_bytes
from app.storage.tables import ledger, ledger_checkpoints, ledger_head, ledger_subtrees

_PAGE_BLOCKS = 16


@dataclass(frozen=True, slots=True)
class Block:
    """Up to 256 entries, as rows and as the copies that the tree keeps of them."""

    number: int
    leaves: list[bytes]  # the leaf hashes in the rows
    copies: list[bytes]
    root: bytes | None  # of a complete one, as stored

    @property
    def first(self) -> int:
        """The index of its first entry."""
        return self.number * SUBTREE_LEAVES


def check_tree(
    connection: Connection, key: LogKey, *, newest_entries: int | None = None, with_bytes: bool = False
) -> int:
    """Recompute the tree and compare it with the newest checkpoint; returns its size.

    `newest_entries` bounds how many rows are read; older ones are then covered by the stored roots of their blocks.
    `with_bytes` computes leaf hashes from the entries themselves and looks at every kept checkpoint.

    Raises:
        AppError: `FAILED_PRECONDITION` naming the first entry (or what else) that was changed.
    """
    signed = _signed(connection, key)
    size = 0 if signed is None else signed.size
    _check_head(connection, signed)
    skipped = 0 if newest_entries is None else max(0, size - newest_entries) // SUBTREE_LEAVES
    stored, real = Frontier(), Frontier()  # the tree by the kept roots, and by the rows
    for root in _old_roots(connection, skipped):
        stored.append(root, STRIDE)
        real.append(root, STRIDE)
    checkpoints = _kept_checkpoints(connection, key) if with_bytes else {}
    suspect: Block | None = None
    for block in _blocks(connection, skipped, size, with_bytes=with_bytes):
        root = root_hash(block.leaves)
        if suspect is None and (root != (block.root or root_hash(block.copies)) or block.leaves != block.copies):
            suspect = block
        if block.root is not None:
            stored.append(block.root, STRIDE)
        else:
            stored.extend(block.copies)
        for leaf in block.leaves:
            real.append(leaf)
            if suspect is None and (checkpoint := checkpoints.get(real.size)) is not None:
                _compare(checkpoint, real)
    if suspect is not None:
        raise damaged(_what_changed(suspect, is_tree_authentic=stored.root() == _root(signed)))
    if real.size != size or real.root() != _root(signed):
        raise damaged(f"its {size} entries and their subtree roots are not the tree of the newest checkpoint")
    _check_upper_roots(connection, real.size)
    return size


def _what_changed(block: Block, *, is_tree_authentic: bool) -> str:
    """Name the first entry of a block whose rows, copies and root do not agree."""
    for offset, (leaf, copy) in enumerate(zip(block.leaves, block.copies, strict=True)):
        if leaf != copy:
            index = block.first + offset
            if is_tree_authentic and block.root is not None and root_hash(block.leaves) == block.root:
                return f"the entry with index {index} holds, but the tree's own copy of its leaf hash does not"
            return f"the entry with index {index} is not the one that was signed"
    last = block.first + len(block.leaves) - 1
    return f"the stored root of the entries {block.first} to {last} is not the root of these entries"


def _signed(connection: Connection, key: LogKey) -> StoredCheckpoint | None:
    newest = newest_checkpoint(connection)
    if newest is not None:
        _verify(newest, key)
    return newest


def _verify(stored: StoredCheckpoint, key: LogKey) -> None:
    try:
        checkpoint = key.verify(stored.note)
    except AppError as error:
        raise damaged(f"the stored checkpoint of size {stored.size} does not hold ({error.detail})") from None
    if (checkpoint.size, checkpoint.root) != (stored.size, stored.root):
        raise damaged(f"the stored checkpoint of size {stored.size} is not what was signed")


def _root(signed: StoredCheckpoint | None) -> bytes:
    return Frontier().root() if signed is None else signed.root


def _check_head(connection: Connection, signed: StoredCheckpoint | None) -> None:
    size = 0 if signed is None else signed.size
    head = connection.execute(select(ledger_head.c.size, ledger_head.c.frontier)).one_or_none()
    greatest = connection.execute(select(func.max(ledger.c.leaf_index))).scalar_one()
    count = 0 if greatest is None else greatest + 1
    if count < size:
        raise damaged(f"the entries from index {count} on are missing; {size} were signed")
    if count > size:
        raise damaged(f"the entry with index {size} was never signed")
    if head is None or head.size != size:
        raise damaged(f"its head is not of size {size}, which the newest checkpoint has")
    try:
        root = Frontier.parse(head.size, bytes(head.frontier)).root()
    except ValueError:
        root = b""
    if root != _root(signed):
        raise damaged("its head is not the tree of the newest checkpoint")


def _old_roots(connection: Connection, count: int) -> Iterator[bytes]:
    query = (
        select(ledger_subtrees.c.number, ledger_subtrees.c.root)
        .where(ledger_subtrees.c.level == STRIDE, ledger_subtrees.c.number < count)
        .order_by(ledger_subtrees.c.number)
        .execution_options(yield_per=1_000)
    )
    expected = 0
    for row in connection.execute(query):
        if row.number != expected:
            break
        expected += 1
        yield bytes(row.root)
    if expected != count:
        raise damaged(f"the subtree root of the entries from {expected * SUBTREE_LEAVES} on is missing")


def _blocks(connection: Connection, first: int, size: int, *, with_bytes: bool) -> Iterator[Block]:
    last = -(-size // SUBTREE_LEAVES)
    for page in range(first, last, _PAGE_BLOCKS):
        end = min(page + _PAGE_BLOCKS, last)
        subtrees = {
            row.number: row
            for row in connection.execute(
                select(ledger_subtrees).where(
                    ledger_subtrees.c.level == STRIDE, ledger_subtrees.c.number >= page, ledger_subtrees.c.number < end
                )
            )
        }
        leaves = _leaves(connection, page * SUBTREE_LEAVES, min(end * SUBTREE_LEAVES, size), with_bytes=with_bytes)
        for number in range(page, end):
            start = (number - page) * SUBTREE_LEAVES
            yield _block(connection, number, leaves[start : start + SUBTREE_LEAVES], subtrees)


def _block(connection: Connection, number: int, leaves: list[bytes], subtrees: Mapping[int, Row[Any]]) -> Block:
    if len(leaves) < SUBTREE_LEAVES:
        copies, root = bytes(connection.execute(select(ledger_head.c.tail)).scalar_one()), None
    elif number in subtrees:
        copies, root = bytes(subtrees[number].leaves), bytes(subtrees[number].root)
    else:
        raise damaged(f"the subtree root of the entries from {number * SUBTREE_LEAVES} on is missing")
    if len(copies) != len(leaves) * HASH_BYTES:
        raise damaged(f"the tree's copy of the leaf hashes from {number * SUBTREE_LEAVES} on is not complete")
    return Block(number, leaves, [copies[at : at + HASH_BYTES] for at in range(0, len(copies), HASH_BYTES)], root)


def _leaves(connection: Connection, first: int, end: int, *, with_bytes: bool) -> list[bytes]:
    index = ledger.c.leaf_index
    columns = (index, ledger.c.leaf_hash, *((ledger.c.data,) if with_bytes else ()))
    leaves: list[bytes] = []
    for row in connection.execute(select(*columns).where(index >= first, index < end).order_by(index)):
        expected = first + len(leaves)
        if row.leaf_index != expected:
            raise damaged(f"the entry with index {expected} is missing")
        if with_bytes and leaf_hash(stored_bytes(row.data)) != stored_bytes(row.leaf_hash):
            raise damaged(f"the bytes of the entry with index {expected} do not have its leaf hash")
        leaves.append(stored_bytes(row.leaf_hash))
    if len(leaves) != end - first:
        raise damaged(f"the entry with index {first + len(leaves)} is missing")
    return leaves


def _kept_checkpoints(connection: Connection, key: LogKey) -> dict[int, StoredCheckpoint]:
    kept = {row.size: checkpoint_of(row) for row in connection.execute(select(ledger_checkpoints))}
    for checkpoint in kept.values():
        _verify(checkpoint, key)
    return kept


def _compare(checkpoint: StoredCheckpoint, real: Frontier) -> None:
    if real.root() != checkpoint.root:
        raise damaged(f"the first {checkpoint.size} entries are not the tree of the checkpoint of that size")


def _check_upper_roots(connection: Connection, size: int) -> None:
    """Whether the kept roots above the blocks are those of the blocks; proofs are made from them."""
    frontier = Frontier()
    query = select(ledger_subtrees.c.level, ledger_subtrees.c.number, ledger_subtrees.c.root)
    stored = {
        (row.level, row.number): bytes(row.root)
        for row in connection.execute(query.where(ledger_subtrees.c.level > STRIDE))
    }
    for root in _old_roots(connection, size // SUBTREE_LEAVES):
        for subtree in frontier.append(root, STRIDE):
            if stored.pop((subtree.level, subtree.number), None) != subtree.root:
                raise damaged(f"the stored subtree root {subtree.number} of level {subtree.level} is not the tree's")
