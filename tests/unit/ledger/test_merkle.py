"""The ledger's tree: published vectors, and laws over random trees."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.ledger.entry import leaf_hash
from app.ledger.merkle import (
    EMPTY_ROOT,
    consistency_proof,
    inclusion_proof,
    root_hash,
    verify_consistency,
    verify_inclusion,
)

# The eight leaves and all values below are those of the reference test of Certificate Transparency (RFC 6962).
INPUTS = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
LEAVES = [leaf_hash(bytes.fromhex(value)) for value in INPUTS]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
INCLUSION = {
    (0, 1): [],
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
    (1, 5): [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}
CONSISTENCY = {
    (1, 1): [],
    (1, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}

hashes = st.binary(min_size=32, max_size=32)


def leaves(size: int) -> list[bytes]:
    return [leaf_hash(index.to_bytes(4)) for index in range(size)]


def test_the_empty_tree() -> None:
    """SHA-256 over nothing (RFC 6962 §2.1)."""
    assert "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" == EMPTY_ROOT.hex()
    assert EMPTY_ROOT == root_hash([])


@pytest.mark.parametrize("size", range(1, 9))
def test_published_roots(size: int) -> None:
    """Of the reference leaves."""
    assert ROOTS[size - 1] == root_hash(LEAVES[:size]).hex()


@pytest.mark.parametrize(("index", "size"), INCLUSION)
def test_published_inclusion_proofs(index: int, size: int) -> None:
    """Made as published, and believed."""
    proof = inclusion_proof(LEAVES[:size], index)
    assert INCLUSION[index, size] == [node.hex() for node in proof]
    assert verify_inclusion(LEAVES[index], index, size, proof, bytes.fromhex(ROOTS[size - 1]))


@pytest.mark.parametrize(("old", "size"), CONSISTENCY)
def test_published_consistency_proofs(old: int, size: int) -> None:
    """Made as published, and believed."""
    proof = consistency_proof(LEAVES[:size], old)
    assert CONSISTENCY[old, size] == [node.hex() for node in proof]
    assert verify_consistency(old, bytes.fromhex(ROOTS[old - 1]), size, bytes.fromhex(ROOTS[size - 1]), proof)


def test_a_leaf_is_never_a_node() -> None:
    """The prefixes differ: the inner bytes of a node make another leaf hash."""
    one, two = leaves(2)
    assert root_hash([one, two]) != leaf_hash(one + two)
    assert root_hash([one, two]) == hashlib.sha256(b"\x01" + one + two).digest()


@settings(deadline=None)
@given(st.integers(1, 70), st.data())
def test_every_leaf_is_proved_and_no_other_place_is(size: int, data: st.DataObject) -> None:
    """For any tree and leaf; at another index, with another leaf, root or size, nothing holds."""
    tree = leaves(size)
    index = data.draw(st.integers(0, size - 1))
    proof, root = inclusion_proof(tree, index), root_hash(tree)
    assert verify_inclusion(tree[index], index, size, proof, root)
    other = data.draw(st.integers(0, size - 1).filter(lambda n: n != index)) if size > 1 else size
    assert not verify_inclusion(tree[index], other, size, proof, root)
    assert not verify_inclusion(leaf_hash(b"other"), index, size, proof, root)
    assert not verify_inclusion(tree[index], index, size, proof, EMPTY_ROOT)
    assert not verify_inclusion(tree[index], index, size, [*proof, EMPTY_ROOT], root)
    assert not proof or not verify_inclusion(tree[index], index, size, proof[:-1], root)


@settings(deadline=None)
@given(st.integers(0, 70), st.integers(0, 70))
def test_every_prefix_is_consistent_and_no_other_history_is(first: int, second: int) -> None:
    """For any two sizes; a changed old root or a changed proof is not believed."""
    old, size = sorted((first, second))
    tree = leaves(size)
    proof, old_root, root = consistency_proof(tree, old), root_hash(tree[:old]), root_hash(tree)
    assert verify_consistency(old, old_root, size, root, proof)
    rewritten = root_hash([leaf_hash(b"rewritten"), *tree[1:old]]) if old else leaf_hash(b"")
    assert not verify_consistency(old, rewritten, size, root, proof)
    assert not verify_consistency(old, old_root, size, root, [*proof, root])
    assert old in {0, size} or not verify_consistency(old, old_root, size, leaf_hash(b"other"), proof)
    assert old in {0, size} or not verify_consistency(old, old_root, size, root, proof[:-1])


@settings(deadline=None)
@given(st.lists(hashes, max_size=8), hashes, st.integers(-2, 40), st.integers(-2, 40))
def test_hostile_proofs_are_answered_with_no(proof: list[bytes], root: bytes, one: int, two: int) -> None:
    """Never an exception, never a yes, whatever is handed in."""
    assert not verify_inclusion(leaf_hash(b"x"), one, two, proof, root)
    assert not verify_consistency(one, leaf_hash(b"x"), two, root, proof)


def test_what_cannot_be_proved_is_an_error() -> None:
    """A leaf or a size that the tree does not have."""
    for index in (-1, 3):
        with pytest.raises(IndexError):
            inclusion_proof(leaves(3), index)
    for old in (-1, 4):
        with pytest.raises(IndexError):
            consistency_proof(leaves(3), old)
