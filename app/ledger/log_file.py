"""The whole log as one file, and its verification line by line in bounded memory.

Every line is one JSON value, so that ordinary tools read it: a heading with the origin and the number of entries, the
entries in their order, each with index and leaf hash, and signed checkpoints, each right after the last entry that it
covers. The last line is the checkpoint of all entries. What is believed are the checkpoints; index and leaf hash are
there so that what was changed is named.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable

from app.errors import AppError, ErrorCode
from app.ledger.checkpoint import Checkpoint, LogKey
from app.ledger.entry import leaf_hash
from app.ledger.frontier import Frontier
from app.ledger.proof import MAX_ENTRY_BYTES

FORMAT = "gatehouse.dev/ledger@v1"
MAX_LINE_BYTES = MAX_ENTRY_BYTES + 1_024
_ENTRY = re.compile(rb'\{"index":(0|[1-9][0-9]{0,17}),"leafHash":"([A-Za-z0-9+/]{43}=)","entry":(.*)\}', re.DOTALL)


def heading_line(origin: str, size: int) -> bytes:
    """The first line."""
    return json.dumps({"format": FORMAT, "origin": origin, "size": size}).encode() + b"\n"


def entry_line(index: int, data: bytes) -> bytes:
    """The line of an entry; its canonical bytes stand in it as they are."""
    encoded = base64.b64encode(leaf_hash(data))
    return b'{"index":%d,"leafHash":"%s","entry":%s}\n' % (index, encoded, data)


def checkpoint_line(note: str) -> bytes:
    """The line of a checkpoint."""
    return json.dumps({"checkpoint": note}).encode() + b"\n"


def verify_log(lines: Iterable[bytes], key: LogKey) -> Checkpoint:
    """The checkpoint of all entries of a log file, after every line was checked.

    Raises:
        AppError: `UNAUTHENTICATED` or `MALFORMED`, naming the first index that does not hold.
    """
    verification = _Verification(key)
    for line in lines:
        verification.take(line)
    return verification.result()


class _Verification:
    def __init__(self, key: LogKey) -> None:
        self._key = key
        self._frontier = Frontier()
        self._expected_size: int | None = None
        self._newest: Checkpoint | None = None

    def take(self, line: bytes) -> None:
        if not line.endswith(b"\n"):
            raise self._bad("the file ends in the middle of a line")
        line = line[:-1]
        if self._expected_size is None:
            self._take_heading(line)
        elif line.startswith(b'{"checkpoint"'):
            self._take_checkpoint(line)
        else:
            self._take_entry(line)

    def result(self) -> Checkpoint:
        if self._expected_size is None:
            raise AppError(ErrorCode.MALFORMED, "the file is empty: it does not even have the heading of a ledger")
        if self._frontier.size != self._expected_size:
            raise self._bad(f"the file ends here and should have {self._expected_size} entries")
        if self._newest is None or self._newest.size != self._frontier.size:
            raise self._bad("the file ends without the checkpoint of its last entries")
        return self._newest

    def _take_heading(self, line: bytes) -> None:
        try:
            heading = json.loads(line)
            known = heading["format"] == FORMAT
            origin, size = str(heading["origin"]), heading["size"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise AppError(ErrorCode.MALFORMED, "the first line is not the heading of a ledger") from None
        if not known or not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise AppError(ErrorCode.MALFORMED, f"the first line does not say that this is a {FORMAT}")
        if origin != self._key.origin:
            raise AppError(
                ErrorCode.UNAUTHENTICATED, f"this is the ledger {origin!r}, and the key is that of {self._key.origin!r}"
            )
        self._expected_size = size

    def _take_entry(self, line: bytes) -> None:
        found = _ENTRY.fullmatch(line)
        if found is None:
            raise self._bad("this line is not an entry")
        if int(found[1]) != self._frontier.size:
            raise self._bad(f"the line with index {int(found[1])} stands here")
        leaf = leaf_hash(found[3])
        if base64.b64encode(leaf) != found[2]:
            raise self._bad("the entry does not have its leaf hash")
        self._frontier.append(leaf)

    def _take_checkpoint(self, line: bytes) -> None:
        try:
            note = json.loads(line)["checkpoint"]
            checkpoint = self._key.verify(note)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise self._bad("the checkpoint before it is not one") from None
        except AppError as error:
            raise self._bad(f"the checkpoint before it does not hold: {error.detail}") from None
        if checkpoint.size != self._frontier.size:
            raise self._bad(f"the checkpoint of size {checkpoint.size} stands here")
        if checkpoint.root != self._frontier.root():
            first = 0 if self._newest is None else self._newest.size
            raise AppError(
                ErrorCode.UNAUTHENTICATED,
                f"index {first}: among the entries {first} to {checkpoint.size - 1} is one that was not signed so",
            )
        self._newest = checkpoint

    def _bad(self, what: str) -> AppError:
        return AppError(ErrorCode.UNAUTHENTICATED, f"index {self._frontier.size}: {what}")
