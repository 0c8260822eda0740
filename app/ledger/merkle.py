"""The tree over the ledger's leaf hashes (RFC 6962 §2.1)."""

from __future__ import annotations

from collections.abc import Sequence


def root_hash(leaves: Sequence[bytes]) -> bytes:
    """The Merkle tree hash of a list of leaf hashes."""
    raise NotImplementedError


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The audit path of leaf `index`."""
    raise NotImplementedError


def consistency_proof(leaves: Sequence[bytes], old_size: int) -> list[bytes]:
    """The proof that the first `old_size` leaves are a prefix of all."""
    raise NotImplementedError


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether `leaf` is at `index` of the tree of `size` leaves with that root."""
    raise NotImplementedError


def verify_consistency(old_size: int, old_root: bytes, size: int, root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether the tree of `size` leaves extends the tree of `old_size` leaves."""
    raise NotImplementedError
