"""Proof files: they verify with the key alone, and any change of them is refused."""

from __future__ import annotations

import base64
import hashlib
import random

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from app.errors import AppError
from app.ledger.entry import leaf_hash
from app.ledger.merkle import consistency_proof, inclusion_proof, root_hash
from app.ledger.proof import ConsistencyProof, InclusionProof
from tests.support.ledger import LEDGER_KEY

ENTRIES = [b'{"n":%d}' % number for number in range(21)]
LEAVES = [leaf_hash(entry) for entry in ENTRIES]
NOTES = {size: LEDGER_KEY.sign(size, root_hash(LEAVES[:size])) for size in (1, 8, 13, 21)}


def proof_of(index: int) -> InclusionProof:
    return InclusionProof(
        index=index, entry=ENTRIES[index], hashes=tuple(inclusion_proof(LEAVES, index)), note=NOTES[21]
    )


@pytest.mark.parametrize("index", [0, 7, 20])
def test_a_proof_comes_back_from_its_file_and_holds(index: int) -> None:
    """Index, entry, hashes and checkpoint, and the key says yes."""
    read = InclusionProof.parse(proof_of(index).to_text())
    assert proof_of(index) == read
    assert 21 == read.verify(LEDGER_KEY.public).size


def test_the_file_has_the_form_of_the_specification() -> None:
    """C2SP tlog-proof v1: heading, extra, index, hashes, an empty line, the checkpoint."""
    lines = proof_of(3).to_text().split("\n")
    assert "c2sp.org/tlog-proof@v1" == lines[0]
    assert lines[1].startswith("extra ")
    assert "index 3" == lines[2]
    assert lines[3 + 5 :] == ["", *NOTES[21].split("\n")]


@pytest.mark.parametrize("index", [0, 7, 20])
def test_a_reader_of_the_specification_alone_verifies_it(index: int) -> None:
    """Written from C2SP tlog-proof, tlog-checkpoint, signed-note and RFC 9162 §2.1.3.2, with nothing of ours."""
    head, _, note = proof_of(index).to_text().partition("\n\n")
    heading, extra, position, *path = head.split("\n")
    body, _, signatures = note.partition("\n\n")
    origin, size, root = body.split("\n")
    name, _, public = str(LEDGER_KEY.public).partition("+")
    key_id, _, encoded = public.partition("+")
    algorithm, raw = base64.b64decode(encoded)[:1], base64.b64decode(encoded)[1:]
    assert ("c2sp.org/tlog-proof@v1", f"index {index}", name, b"\x01") == (heading, position, origin, algorithm)
    assert bytes.fromhex(key_id) == hashlib.sha256(f"{name}\n".encode() + algorithm + raw).digest()[:4]

    signature = base64.b64decode(signatures.removeprefix(f"\u2014 {name} ").rstrip("\n"))
    assert bytes.fromhex(key_id) == signature[:4]
    Ed25519PublicKey.from_public_bytes(raw).verify(signature[4:], f"{body}\n".encode())

    number, last = index, int(size) - 1
    value = hashlib.sha256(b"\x00" + base64.b64decode(extra.removeprefix("extra "))).digest()
    for sibling in map(base64.b64decode, path):
        if number & 1 or number == last:
            value = hashlib.sha256(b"\x01" + sibling + value).digest()
            while not number & 1 and number:
                number, last = number >> 1, last >> 1
        else:
            value = hashlib.sha256(b"\x01" + value + sibling).digest()
        number, last = number >> 1, last >> 1
    assert (0, base64.b64decode(root)) == (last, value)


def test_every_changed_byte_of_a_proof_is_noticed() -> None:
    """A bit flipped anywhere in the file: it does not parse or does not hold."""
    text = proof_of(11).to_text().encode()
    generator = random.Random(7)
    for position in range(len(text)):
        changed = bytearray(text)
        changed[position] ^= 1 << generator.randrange(7)
        with pytest.raises(AppError):
            InclusionProof.parse(changed.decode("utf-8", "replace")).verify(LEDGER_KEY.public)


@pytest.mark.parametrize("old", [1, 8, 13])
def test_a_step_between_two_checkpoints_holds(old: int) -> None:
    """The newer one extends the older one."""
    proof = ConsistencyProof(old_size=old, new_size=21, hashes=tuple(consistency_proof(LEAVES, old)))
    read = ConsistencyProof.parse(proof.to_text())
    assert proof == read
    read.verify(LEDGER_KEY.public.verify(NOTES[old]), LEDGER_KEY.public.verify(NOTES[21]))


def test_two_histories_are_caught_by_comparing_two_checkpoints() -> None:
    """R19: a server that signs two trees of which neither extends the other cannot prove the step."""
    other = [leaf_hash(b"other"), *LEAVES[1:]]
    shown = LEDGER_KEY.public.verify(LEDGER_KEY.sign(13, root_hash(other[:13])))
    newest = LEDGER_KEY.public.verify(NOTES[21])
    for leaves in (LEAVES, other):
        proof = ConsistencyProof(old_size=13, new_size=21, hashes=consistency_proof(leaves, 13))
        with pytest.raises(AppError, match="two histories"):
            proof.verify(shown, newest)
    same = LEDGER_KEY.public.verify(LEDGER_KEY.sign(21, root_hash(other)))
    with pytest.raises(AppError, match="two histories"):
        ConsistencyProof(old_size=21, new_size=21, hashes=()).verify(same, newest)


def test_a_ledger_that_went_backwards_is_said_so() -> None:
    """The older checkpoint is the larger one."""
    with pytest.raises(AppError, match="backwards"):
        ConsistencyProof(old_size=13, new_size=21, hashes=()).verify(
            LEDGER_KEY.public.verify(NOTES[21]), LEDGER_KEY.public.verify(NOTES[13])
        )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "c2sp.org/tlog-proof@v1\n\n",
        "c2sp.org/tlog-proof@v1\nindex 1\n\nx",
        "c2sp.org/tlog-proof@v1\nextra e30=\n\nx",
        "c2sp.org/tlog-proof@v1\nextra e30=\nindex 01\n\nx",
    ],
)
def test_what_is_no_proof_is_refused(text: str) -> None:
    """One error with what is missing."""
    with pytest.raises(AppError, match="proof"):
        InclusionProof.parse(text)
    with pytest.raises(AppError, match="proof"):
        ConsistencyProof.parse(text.replace("c2sp.org/tlog-proof@v1", "gatehouse.dev/ledger-consistency@v1"))
