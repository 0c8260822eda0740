"""Proofs as files: that an entry is in the log, and that one checkpoint extends another.

An inclusion proof is a C2SP tlog-proof (https://c2sp.org/tlog-proof): index, audit path and checkpoint. Its `extra`
line holds the entry's canonical bytes, so that a verifier needs this one file and the log's public key. The extra line
itself is not authenticated: it is believed because its leaf hash is at the index of the signed tree.

A consistency proof has the same outer form under a heading of our own; the checkpoints that it joins are kept apart.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from app.errors import AppError, ErrorCode
from app.ledger.checkpoint import MAX_NOTE_BYTES, Checkpoint, LogKey, decode_base64
from app.ledger.entry import leaf_hash
from app.ledger.merkle import HASH_BYTES, verify_consistency, verify_inclusion

_INCLUSION = "c2sp.org/tlog-proof@v1"
_CONSISTENCY = "gatehouse.dev/ledger-consistency@v1"
_MAX_HASHES = 128  # RFC 6962: at most 64 levels, twice for consistency
MAX_ENTRY_BYTES = 16_777_216
MAX_PROOF_BYTES = 2 * MAX_ENTRY_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class InclusionProof:
    """One entry, and why it is in the log."""

    index: int
    entry: bytes
    hashes: Sequence[bytes]
    note: str

    def to_text(self) -> str:
        """The file."""
        lines = [_INCLUSION, f"extra {_encoded(self.entry)}", f"index {self.index}", *map(_encoded, self.hashes)]
        return "\n".join(lines) + "\n\n" + self.note

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a file.

        Raises:
            AppError: `MALFORMED` when it is not such a proof.
        """
        lines, note = _split(text, _INCLUSION)
        if not lines or not lines[0].startswith("extra "):
            raise AppError(ErrorCode.MALFORMED, "the proof does not hold its entry (the line `extra`)")
        entry = _decoded(lines[0].removeprefix("extra "))
        if len(lines) < 2 or not lines[1].startswith("index "):
            raise AppError(ErrorCode.MALFORMED, "the proof does not say its index")
        return cls(index=_number(lines[1][6:]), entry=entry, hashes=_hashes(lines[2:]), note=note)

    def verify(self, key: LogKey) -> Checkpoint:
        """The checkpoint that vouches for the entry.

        Raises:
            AppError: `UNAUTHENTICATED` when the checkpoint is not the log's or the entry is not at its index in it.
        """
        checkpoint = key.verify(self.note)
        leaf = leaf_hash(self.entry)
        if not verify_inclusion(leaf, self.index, checkpoint.size, self.hashes, checkpoint.root):
            raise AppError(
                ErrorCode.UNAUTHENTICATED,
                f"the entry is not the one at index {self.index} of the ledger of size {checkpoint.size}",
            )
        return checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsistencyProof:
    """Why the tree of one size extends the tree of another. It says nothing without both checkpoints."""

    old_size: int
    new_size: int
    hashes: Sequence[bytes]

    def to_text(self) -> str:
        """The file."""
        lines = [_CONSISTENCY, f"from {self.old_size}", f"to {self.new_size}", *map(_encoded, self.hashes)]
        return "\n".join(lines) + "\n\n"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a file.

        Raises:
            AppError: `MALFORMED` when it is not such a proof.
        """
        lines, rest = _split(text, _CONSISTENCY)
        if rest or len(lines) < 2 or not lines[0].startswith("from ") or not lines[1].startswith("to "):
            raise AppError(ErrorCode.MALFORMED, "the proof does not say between which sizes it is")
        return cls(
            old_size=_number(lines[0].removeprefix("from ")),
            new_size=_number(lines[1].removeprefix("to ")),
            hashes=_hashes(lines[2:]),
        )

    def verify(self, old: Checkpoint, new: Checkpoint) -> None:
        """Whether `new` extends `old`; both must have been verified.

        Raises:
            AppError: `UNAUTHENTICATED` when it does not, `INVALID` when the proof is between other sizes.
        """
        if old.size > new.size:
            raise AppError(
                ErrorCode.UNAUTHENTICATED, f"the ledger went backwards: from size {old.size} to size {new.size}"
            )
        if (old.size, new.size) != (self.old_size, self.new_size):
            raise AppError(
                ErrorCode.INVALID,
                f"the proof is between the sizes {self.old_size} and {self.new_size}, the checkpoints have "
                f"{old.size} and {new.size}",
            )
        if not verify_consistency(old.size, old.root, new.size, new.root, self.hashes):
            raise AppError(
                ErrorCode.UNAUTHENTICATED,
                f"the ledger of size {new.size} does not extend the one of size {old.size}: two histories were shown",
            )


def _split(text: str, heading: str) -> tuple[list[str], str]:
    head, separator, rest = text.partition("\n\n")
    lines = head.split("\n")
    if len(text) > MAX_PROOF_BYTES or not separator or lines[0] != heading or len(rest) > MAX_NOTE_BYTES:
        raise AppError(ErrorCode.MALFORMED, f"not a proof: the first line must be {heading}")
    return lines[1:], rest


def _hashes(lines: Sequence[str]) -> tuple[bytes, ...]:
    if len(lines) > _MAX_HASHES:
        raise AppError(ErrorCode.MALFORMED, "the proof has more hashes than a tree has levels")
    hashes = tuple(map(_decoded, lines))
    if any(len(value) != HASH_BYTES for value in hashes):
        raise AppError(ErrorCode.MALFORMED, "a hash of the proof does not have 32 bytes")
    return hashes


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18 or (text[0] == "0" and text != "0"):
        raise AppError(ErrorCode.MALFORMED, "an index or a size in the proof is not a number")
    return int(text)


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decoded(text: str) -> bytes:
    try:
        return decode_base64(text)
    except ValueError:
        raise AppError(ErrorCode.MALFORMED, "a line of the proof is not base64") from None
