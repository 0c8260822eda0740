"""Entity tags and preconditions (RFC 9110 §8.8.3, §13.1)."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Header

from app.errors import AppError, ErrorCode

_STRONG = re.compile(r'"([\x21\x23-\x7e]{1,128})"')

IfMatch = Annotated[
    str | None, Header(alias="If-Match", description="The entity tag that the resource must still have, or *.")
]
IfNoneMatch = Annotated[
    str | None, Header(alias="If-None-Match", description="On a write only *: the resource must not exist yet.")
]


def quoted(etag: str | int) -> str:
    """A strong entity tag."""
    return f'"{etag}"'


def expected_etag(if_match: str | None) -> str | None:
    """The entity tag of If-Match without its quotes, `*`, or None when the header is missing.

    Raises:
        AppError: `MALFORMED` for a list or for what is not an entity tag; `PRECONDITION_FAILED` for a weak one,
            which never matches (RFC 9110 §13.1.1).
    """
    if if_match is None or if_match.strip() == "*":
        return None if if_match is None else "*"
    text = if_match.strip()
    if text.startswith("W/"):
        raise AppError(ErrorCode.PRECONDITION_FAILED, "A weak entity tag never matches; send the one that GET gave.")
    found = _STRONG.fullmatch(text)
    if found is None:
        raise AppError(ErrorCode.MALFORMED, 'If-Match takes one entity tag in quotes, such as "5f1c…", or *.')
    return found[1]


def expected_number(if_match: str | None, what: str) -> int | None:
    """As `expected_etag`, for a resource whose entity tag is its number; `*` holds always.

    Raises:
        AppError: `MALFORMED`, or `PRECONDITION_FAILED` for a tag that is not a number, as no version has it.
    """
    etag = expected_etag(if_match)
    if etag is None or etag == "*":
        return None
    if not etag.isascii() or not etag.isdigit() or len(etag) > 18:
        raise AppError(ErrorCode.PRECONDITION_FAILED, f"No {what} has the entity tag {quoted(etag)}.")
    return int(etag)


def is_create_only(if_none_match: str | None) -> bool:
    """Whether a write must not replace anything.

    Raises:
        AppError: `MALFORMED` for anything but `*`.
    """
    if if_none_match is None:
        return False
    if if_none_match.strip() != "*":
        raise AppError(ErrorCode.MALFORMED, "On a write, If-None-Match takes only *.")
    return True


def is_unchanged(etag: str, if_none_match: str | None) -> bool:
    """Whether a GET may be answered with 304."""
    if if_none_match is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return quoted(etag) in tags or tags == ["*"]
