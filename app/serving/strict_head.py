"""Refuses the request heads on which two HTTP parsers may disagree.

h11 is lenient where RFC 9112 lets a recipient choose: it takes a bare LF for a line end, unfolds obsolete folded
lines, collapses equal Content-Length headers and lets Transfer-Encoding win over Content-Length. Behind a proxy
that chooses otherwise each of these is a way to smuggle a request, so here each is a 400 (RFC 9112 §2.2, §5.2, §6.3).
"""

from __future__ import annotations

import re

import h11

_HEAD_END = re.compile(rb"\n\r?\n")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_BARE_CR = re.compile(rb"\r(?!\n)")


class StrictConnection(h11.Connection):
    """An h11 server connection that looks at each raw request head before h11 does."""

    def __init__(self, max_head_bytes: int) -> None:
        super().__init__(h11.SERVER, max_head_bytes)
        self._max_head_bytes = max_head_bytes

    def next_event(self) -> h11.Event | type[h11.NEED_DATA | h11.PAUSED]:
        """The next event, as in h11.

        Raises:
            h11.RemoteProtocolError: the head is ambiguous, or h11 itself refuses it.
        """
        if self.their_state is h11.IDLE:
            check_head(self.trailing_data[0], self._max_head_bytes)
        return super().next_event()


def check_head(received: bytes, max_bytes: int) -> None:
    """Check the request head at the front of `received`, as far as it is there.

    Raises:
        h11.RemoteProtocolError: two parsers could read it differently.
    """
    end = _HEAD_END.search(received)
    head = received[: end.end()] if end else received
    if len(head) > max_bytes:
        # h11 has a bound only for heads that are not complete yet: one large segment would pass it.
        raise h11.RemoteProtocolError("request head too large", error_status_hint=431)
    if _BARE_LF.search(head):
        _refuse("bare LF in the request head")
    # A CR at the very end of an unfinished head may still get its LF.
    if _BARE_CR.search(head if end else head[:-1]):
        _refuse("bare CR in the request head")
    if end is None:
        return
    _check_framing(*head.split(b"\r\n"))


def _check_framing(request_line: bytes, *lines: bytes) -> None:
    names = []
    for line in lines:
        if line[:1] in {b" ", b"\t"}:
            _refuse("folded header line")
        names.append(line.partition(b":")[0].strip().lower())
    lengths, encodings = names.count(b"content-length"), names.count(b"transfer-encoding")
    if lengths > 1:
        _refuse("repeated Content-Length")
    if encodings > 1:
        _refuse("repeated Transfer-Encoding")
    if lengths and encodings:
        _refuse("Content-Length beside Transfer-Encoding")
    if encodings and not request_line.endswith(b"HTTP/1.1"):
        _refuse("Transfer-Encoding before HTTP/1.1")


def _refuse(reason: str) -> None:
    raise h11.RemoteProtocolError(reason, error_status_hint=400)
