"""The parts of a `multipart/form-data` body (RFC 7578), read strictly and in time that grows with its length only.

Whoever sends a request writes all of this, and the service behind us reads it once more with another parser. So what
could be read in two ways is refused: folded or repeated headers, escapes in a name, a boundary that is only nearly
one, text before the first part or after the last. The parser of the standard library's `email` is not used: it takes
seconds for a header of some kilobytes, and repairs what it cannot read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from app.errors import AppError, ErrorCode

MAX_PART_HEADERS = 16
MAX_PART_HEADER_BYTES = 8_192

_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")  # RFC 2046 §5.1.1
_PARAMETER = re.compile(r"""[ \t]*;[ \t]*([A-Za-z0-9_-]+\*?)=(?:"([^"\r\n]*)"|([^\s;",\\]+))[ \t]*""")
_FIELD_NAME = re.compile(r"[A-Za-z0-9-]+")
_AS_IT_IS = frozenset({"", "7bit", "8bit", "binary"})  # RFC 7578 §4.7: nothing else is sent any more


@dataclass(frozen=True, slots=True)
class FormPart:
    """One field of a form: its name, its media type in lower case (empty when it has none), its bytes."""

    name: str
    media_type: str
    content: bytes


def read_form(body: bytes, content_type: str, *, max_parts: int) -> list[FormPart]:
    """The parts of a body, in order.

    Raises:
        AppError: `MALFORMED` when it is no form that can be read in one way only; `TOO_LARGE` over `max_parts`.
    """
    delimiter = f"\r\n--{_boundary(content_type)}".encode("ascii")
    before, *pieces = (b"\r\n" + body).split(delimiter, max_parts + 2)
    if len(pieces) > max_parts + 1:
        raise AppError(ErrorCode.TOO_LARGE, f"more than rego.max_input_fields ({max_parts}) parts")
    if before or not pieces or pieces[-1] not in (b"--", b"--\r\n"):
        raise _malformed()
    return [_part(piece) for piece in pieces[:-1]]


def _boundary(content_type: str) -> str:
    _, semicolon, rest = content_type.partition(";")
    boundary = _parameters(semicolon + rest).get("boundary", "")
    if not _BOUNDARY.fullmatch(boundary):
        raise _malformed()
    return boundary


def _part(piece: bytes) -> FormPart:
    head, blank, content = piece.partition(b"\r\n\r\n")
    if not blank or not head.startswith(b"\r\n") or len(head) > MAX_PART_HEADER_BYTES:
        raise _malformed()
    headers = _headers(head[2:].decode("utf-8", "replace"))
    kind, semicolon, rest = headers.get("content-disposition", "").partition(";")
    parameters = _parameters(semicolon + rest)
    name = parameters.get("name", "")
    if kind.strip(" \t").lower() != "form-data" or not name or "\\" in name or "name*" in parameters:
        raise _malformed()
    if headers.get("content-transfer-encoding", "").lower() not in _AS_IT_IS:
        raise _malformed()
    return FormPart(name, headers.get("content-type", "").partition(";")[0].strip(" \t").lower(), content)


def _headers(text: str) -> Mapping[str, str]:
    headers: dict[str, str] = {}
    lines = text.split("\r\n")
    for line in lines:
        name, colon, value = line.partition(":")
        # A line that begins with a space would go on with the one before (RFC 5322 §2.2.3).
        if not colon or not _FIELD_NAME.fullmatch(name) or name.lower() in headers or "\r" in value or "\n" in value:
            raise _malformed()
        headers[name.lower()] = value.strip(" \t")
    if len(lines) > MAX_PART_HEADERS:
        raise _malformed()
    return headers


def _parameters(text: str) -> Mapping[str, str]:
    """What follows a value: `; name=value`, each name once."""
    parameters: dict[str, str] = {}
    at = 0
    while at < len(text):
        found = _PARAMETER.match(text, at)
        if found is None or found[1].lower() in parameters:
            raise _malformed()
        parameters[found[1].lower()] = found[2] if found[2] is not None else found[3]
        at = found.end()
    return parameters


def _malformed() -> AppError:
    return AppError(ErrorCode.MALFORMED, "the multipart body cannot be read, or could be read in more than one way")
