"""The growing tree is the same tree, whatever is kept of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.ledger.frontier import SUBTREE_LEAVES, Frontier, Subtree, range_hash
from app.ledger.merkle import (
    consistency_ranges,
    inclusion_ranges,
    root_hash,
    verify_consistency,
    verify_inclusion,
)

LEAVES = [hashlib.sha256(number.to_bytes(4)).digest() for number in range(3 * SUBTREE_LEAVES + 77)]


class Kept:
    """Leaves and kept subtree roots, as a database has them."""

    def __init__(self, leaves: Sequence[bytes], subtrees: Sequence[Subtree]) -> None:
        self._leaves = leaves
        self._roots = {(one.level, one.number): one.root for one in subtrees}

    def hashes(self, level: int, first: int, count: int) -> Sequence[bytes]:
        assert count <= SUBTREE_LEAVES  # never a whole log
        if level == 0:
            return self._leaves[first : first + count]
        return [self._roots[level, first + offset] for offset in range(count)]


@given(st.lists(st.integers(1, 400), max_size=4))
@settings(max_examples=50, deadline=None)
def test_the_root_is_that_of_all_leaves_however_they_came(pieces: list[int]) -> None:
    """In pieces, with the frontier stored and read again after each."""
    frontier, size = Frontier(), 0
    for piece in pieces:
        frontier.extend(LEAVES[size : size + piece])
        size = min(size + piece, len(LEAVES))
        frontier = Frontier.parse(size, frontier.to_bytes())
        assert frontier.root() == root_hash(LEAVES[:size])


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_proofs_from_kept_roots_hold(data: st.DataObject) -> None:
    """Inclusion and consistency, from a few hundred hashes each."""
    size = data.draw(st.integers(1, len(LEAVES)))
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size))
    kept = Kept(LEAVES, Frontier().extend(LEAVES))
    root = root_hash(LEAVES[:size])
    inclusion = [range_hash(kept, *part) for part in inclusion_ranges(index, size)]
    consistency = [range_hash(kept, *part) for part in consistency_ranges(old, size)]
    assert verify_inclusion(LEAVES[index], index, size, inclusion, root)
    assert verify_consistency(old, root_hash(LEAVES[:old]), size, root, consistency)


def test_whole_subtrees_may_be_appended() -> None:
    """A tree from roots of 256 leaves each and the rest is the tree of the leaves."""
    frontier = Frontier()
    for first in range(0, 3 * SUBTREE_LEAVES, SUBTREE_LEAVES):
        frontier.append(root_hash(LEAVES[first : first + SUBTREE_LEAVES]), 8)
    frontier.extend(LEAVES[3 * SUBTREE_LEAVES :])
    assert (len(LEAVES), root_hash(LEAVES)) == (frontier.size, frontier.root())


@pytest.mark.parametrize(("size", "data"), [(1, b""), (0, b"x" * 32), (3, b"x" * 32), (-1, b""), (1, b"x" * 31)])
def test_bytes_that_are_no_frontier_are_refused(size: int, data: bytes) -> None:
    """What is stored is checked when it is read."""
    with pytest.raises(ValueError, match="subtree roots"):
        Frontier.parse(size, data)
