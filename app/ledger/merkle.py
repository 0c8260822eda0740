"""The tree over the ledger's leaf hashes: its root, and proofs about it.

Exactly RFC 6962 §2.1 (the same in RFC 9162 §2.1): a node is SHA-256 over a one byte and its two children, a tree
of n leaves splits at the largest power of two below n. Leaves come in as hashes (`app.ledger.entry.leaf_hash`); the
prefix bytes keep a leaf from ever being taken for a node.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()


def root_hash(leaves: Sequence[bytes]) -> bytes:
    """The Merkle tree hash of a list of leaf hashes."""
    if not leaves:
        return EMPTY_ROOT
    level = list(leaves)
    while len(level) > 1:
        # Pairing level by level gives RFC 6962's shape: an odd last node rises unchanged.
        paired = [node_hash(left, right) for left, right in zip(level[::2], level[1::2], strict=False)]
        level = paired + level[len(paired) * 2 :]
    return level[0]


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The audit path of leaf `index` in the tree of all leaves, from the leaf upwards (RFC 6962 §2.1.1).

    Raises:
        IndexError: when there is no such leaf.
    """
    return [root_hash(leaves[first:end]) for first, end in inclusion_ranges(index, len(leaves))]


def inclusion_ranges(index: int, size: int) -> list[tuple[int, int]]:
    """Which ranges of leaves the audit path of a leaf is made of, as (first, end), in its order.

    Raises:
        IndexError: when there is no such leaf.
    """
    if not 0 <= index < size:
        raise IndexError(f"there is no leaf {index} among {size}")
    ranges: list[tuple[int, int]] = []
    first, end = 0, size
    while end - first > 1:
        split = first + _split(end - first)
        if index < split:
            ranges.append((split, end))
            end = split
        else:
            ranges.append((first, split))
            first = split
    return ranges[::-1]


def consistency_proof(leaves: Sequence[bytes], old_size: int) -> list[bytes]:
    """The proof that the tree of the first `old_size` leaves is a prefix of the tree of all (RFC 6962 §2.1.2).

    Empty for `old_size` 0 and for all leaves: there is nothing to prove beyond comparing the roots.

    Raises:
        IndexError: when there are not that many leaves.
    """
    return [root_hash(leaves[first:end]) for first, end in consistency_ranges(old_size, len(leaves))]


def consistency_ranges(old_size: int, size: int) -> list[tuple[int, int]]:
    """Which ranges of leaves the proof between two sizes is made of, as (first, end), in its order.

    Raises:
        IndexError: when there are not that many leaves.
    """
    if not 0 <= old_size <= size:
        raise IndexError(f"there are {size} leaves, not {old_size}")
    if old_size == 0:
        return []
    ranges: list[tuple[int, int]] = []
    first, end = 0, size
    # SUBPROOF of RFC 6962 §2.1.2: down to the place where the old tree ends at the end of a subtree.
    while old_size != end:
        split = first + _split(end - first)
        if old_size <= split:
            ranges.append((split, end))
            end = split
        else:
            ranges.append((first, split))
            first = split
    # While nothing was split off to the left, that subtree is the whole old tree, whose root the verifier knows.
    if first != 0:
        ranges.append((first, end))
    return ranges[::-1]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether `leaf` is at `index` of the tree of `size` leaves with that root (RFC 9162 §2.1.3.2)."""
    if not 0 <= index < size:
        return False
    node, last, result = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if node & 1 or node == last:
            result = node_hash(sibling, result)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            result = node_hash(result, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and result == root


def verify_consistency(old_size: int, old_root: bytes, size: int, root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether the tree of `size` leaves extends the tree of `old_size` leaves (RFC 9162 §2.1.4.2)."""
    if not 0 <= old_size <= size:
        return False
    if old_size == 0:
        return not proof and old_root == EMPTY_ROOT
    if old_size == size:
        return not proof and old_root == root
    # A complete old tree is itself a node of the new one, and then the proof leaves it out.
    path = [old_root, *proof] if old_size & (old_size - 1) == 0 else list(proof)
    if not path:
        return False
    node, last = old_size - 1, size - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    old_result = new_result = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if node & 1 or node == last:
            old_result, new_result = node_hash(sibling, old_result), node_hash(sibling, new_result)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            new_result = node_hash(new_result, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and old_result == old_root and new_result == root


def _split(size: int) -> int:
    """The largest power of two below `size`, which is at least 2."""
    return 1 << ((size - 1).bit_length() - 1)


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of a node from those of its children."""
    return hashlib.sha256(b"\x01" + left + right).digest()
