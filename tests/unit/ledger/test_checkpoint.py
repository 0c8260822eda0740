"""Signed notes: what is read, what is believed, what is refused."""

from __future__ import annotations

import base64

import pytest

from app.errors import AppError, ErrorCode
from app.keys.ledger_key import LedgerKey
from app.ledger.checkpoint import MAX_NOTE_BYTES, Checkpoint, LogKey
from tests.support.ledger import LEDGER_KEY

ROOT = bytes(range(32))
NOTE = LEDGER_KEY.sign(12, ROOT)
# The example of the specification of signed notes' Go implementation (golang.org/x/mod/sumdb/note), an Ed25519 key.
GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"


def test_a_checkpoint_says_origin_size_and_root() -> None:
    """Three lines, an empty one, a signature line."""
    checkpoint = LEDGER_KEY.public.verify(NOTE)
    assert ("gatehouse/cluster.local", 12, ROOT) == (checkpoint.origin, checkpoint.size, checkpoint.root)
    assert NOTE.startswith(f"gatehouse/cluster.local\n12\n{base64.b64encode(ROOT).decode()}\n\n\u2014 gatehouse/")


def test_keys_are_written_as_notes_write_them() -> None:
    """A key of another implementation reads, its id is the one it says, and ours comes back as it was."""
    assert GO_KEY == str(LogKey.parse(GO_KEY))
    assert LEDGER_KEY.public == LogKey.parse(f" {LEDGER_KEY.public}\n")


def test_signatures_of_others_may_stand_beside_ours() -> None:
    """A witness adds a line; ours still holds."""
    witness = "\u2014 witness.example AAAAAGFi\n"
    assert 12 == LEDGER_KEY.public.verify(NOTE + witness).size
    head, _, line = NOTE.partition("\n\n")
    assert 12 == LEDGER_KEY.public.verify(f"{head}\n\n{witness}{line}").size


@pytest.mark.parametrize(
    "note",
    [
        NOTE.replace("\n12\n", "\n13\n"),
        NOTE.replace("cluster.local", "other.local"),
        LedgerKey(b"x" * 32, LEDGER_KEY.public.origin).sign(12, ROOT),
        LedgerKey(bytes(range(32)), "gatehouse/other").sign(12, ROOT),
    ],
)
def test_what_our_key_did_not_sign_is_not_believed(note: str) -> None:
    """Another size, another origin, another key."""
    with pytest.raises(AppError) as refusal:
        LEDGER_KEY.public.verify(note)
    assert ErrorCode.UNAUTHENTICATED is refusal.value.code


@pytest.mark.parametrize(
    "note",
    [
        "",
        "\n\n",
        "a\n1\n\n\u2014 a x\n",
        NOTE.replace("\n12\n", "\n012\n"),
        NOTE.replace("\n12\n", "\n-1\n"),
        NOTE.replace("\n12\n", "\n\u0661\n"),
        NOTE.replace("\n12\n", f"\n{'9' * 19}\n"),
        NOTE.replace("=\n", "\n"),
        NOTE.replace("gatehouse/", "gate house/"),
        NOTE.replace("\n\n", "\n"),
        NOTE + "x" * MAX_NOTE_BYTES,
    ],
)
def test_what_is_no_checkpoint_is_refused(note: str) -> None:
    """Bytes from outside: one error, whatever they are."""
    with pytest.raises(AppError) as refusal:
        Checkpoint.parse(note)
    assert ErrorCode.MALFORMED is refusal.value.code


@pytest.mark.parametrize(
    "text", ["", "x", "a+b+c", GO_KEY.replace("c74f20a3", "c74f20a4"), GO_KEY + "AA", GO_KEY.replace("+ARpc", "+AhpC")]
)
def test_what_is_no_key_is_refused(text: str) -> None:
    """A wrong id, another algorithm, no base64."""
    with pytest.raises(AppError, match="public key"):
        LogKey.parse(text)
