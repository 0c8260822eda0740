"""A tree that only grows, kept as the roots of its complete subtrees: everything that the next leaf and the root need.

A tree of n leaves has one complete subtree for each bit of n, the largest to the left (RFC 9162 §2.1.2). On its
way the frontier also gives out the roots of every 256 leaves, of every 256 such roots, and so on: with those at
hand (`SubtreeRoots`), the hash of any range of leaves takes a few hundred hashes, however large the log is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from app.ledger.merkle import EMPTY_ROOT, HASH_BYTES, node_hash

STRIDE = 8  # levels between the subtree roots that are kept: 256 leaves, 65,536 leaves, ...
SUBTREE_LEAVES = 1 << STRIDE
MAX_LEVEL = 3 * STRIDE  # 16,777,216 leaves; above that, the few roots of this level are read one by one


@dataclass(frozen=True, slots=True)
class Subtree:
    """The root of a complete subtree: leaf range [number * 2^level, (number + 1) * 2^level)."""

    level: int
    number: int
    root: bytes


class Frontier:
    """A growing tree."""

    def __init__(self, size: int = 0, roots: Sequence[bytes] = ()) -> None:
        self._size = size
        self._roots = list(roots)

    @classmethod
    def parse(cls, size: int, data: bytes) -> Self:
        """The frontier of a tree of `size` leaves from what `to_bytes` gave.

        Raises:
            ValueError: when the bytes are not those of such a tree.
        """
        if size < 0 or len(data) != size.bit_count() * HASH_BYTES:
            raise ValueError(f"these are not the subtree roots of a tree of {size} leaves")
        return cls(size, [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)])

    def to_bytes(self) -> bytes:
        """The roots of the complete subtrees, the largest first."""
        return b"".join(self._roots)

    @property
    def size(self) -> int:
        """How many leaves the tree has."""
        return self._size

    def root(self) -> bytes:
        """The Merkle tree hash."""
        return fold(self._roots)

    def extend(self, leaves: Iterable[bytes]) -> list[Subtree]:
        """Append leaf hashes; returns the roots of the subtrees to keep that are complete now."""
        completed: list[Subtree] = []
        for leaf in leaves:
            completed.extend(self.append(leaf))
        return completed

    def append(self, root: bytes, level: int = 0) -> list[Subtree]:
        """Append one leaf hash, or the root of a complete subtree of 2^level leaves.

        INVARIANT: the size is a multiple of 2^level, so that the subtree is one of the tree's own.
        """
        completed: list[Subtree] = []
        number = self._size >> level
        while number & 1:
            root = node_hash(self._roots.pop(), root)
            level, number = level + 1, number >> 1
            if level % STRIDE == 0 and level <= MAX_LEVEL:
                completed.append(Subtree(level, number, root))
            self._size -= 1 << (level - 1)
        self._roots.append(root)
        self._size += 1 << level
        return completed


class SubtreeRoots(Protocol):
    """Where hashes of the tree are read from."""

    def hashes(self, level: int, first: int, count: int) -> Sequence[bytes]:
        """Leaf hashes (level 0) or kept subtree roots (levels 8, 16, 24), in order, from number `first` on.

        Raises:
            AppError: when one is missing.
        """
        ...


def range_hash(roots: SubtreeRoots, first: int, end: int) -> bytes:
    """The Merkle tree hash of a range of leaves that is a node of the tree: [first, end).

    INVARIANT: `first` is a multiple of the smallest power of two that holds the range, as ranges of proofs are.
    """
    pieces: list[bytes] = []
    while first < end:
        level = (end - first).bit_length() - 1
        pieces.append(_complete(roots, level, first >> level))
        first += 1 << level
    return fold(pieces)


def _complete(roots: SubtreeRoots, level: int, number: int) -> bytes:
    kept = min(level - level % STRIDE, MAX_LEVEL)
    below = level - kept
    hashes = list(roots.hashes(kept, number << below, 1 << below))
    while len(hashes) > 1:
        hashes = [node_hash(left, right) for left, right in zip(hashes[::2], hashes[1::2], strict=True)]
    return hashes[0]


def fold(roots: Sequence[bytes]) -> bytes:
    """The hash of a tree from the roots of its complete subtrees, the largest first."""
    if not roots:
        return EMPTY_ROOT
    result = roots[-1]
    for root in reversed(roots[:-1]):
        result = node_hash(root, result)
    return result
