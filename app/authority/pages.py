"""Page sizes and page tokens: bounded, opaque, and of no use to who did not get them from us.

A token says after which item the next page starts. It carries a MAC over that and over the question it belongs
to, so a forged one, or one taken to another filter, is refused instead of being looked up.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

from app.errors import AppError, ErrorCode, FieldError

DEFAULT_PAGE_SIZE = 100
_MAC_BYTES = 16
_MAX_TOKEN_CHARS = 2_048


def page_size_within(requested: int, maximum: int) -> int:
    """The page size to use; 0 asks for the default.

    Raises:
        AppError: `INVALID` when it is negative or above the bound: nothing is allocated by a number of the caller's.
    """
    if requested == 0:
        return min(DEFAULT_PAGE_SIZE, maximum)
    if not 1 <= requested <= maximum:
        message = f"the page size must be between 1 and {maximum}"
        raise AppError(ErrorCode.INVALID, message, errors=(FieldError("/limit", message),))
    return requested


def make_page_token(key: bytes, question: str, after: str) -> str:
    """A token for the items that follow `after` in the answer to `question`."""
    return base64.urlsafe_b64encode(_mac(key, question, after) + after.encode()).decode().rstrip("=")


def read_page_token(key: bytes, question: str, token: str) -> str:
    """After which item to go on; empty for an empty token, the first page.

    Raises:
        AppError: `INVALID` when we did not make this token for this question.
    """
    if not token:
        return ""
    if len(token) > _MAX_TOKEN_CHARS:
        raise _forged()
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        after = raw[_MAC_BYTES:].decode()
    except (ValueError, binascii.Error) as error:
        raise _forged() from error
    if not hmac.compare_digest(raw[:_MAC_BYTES], _mac(key, question, after)):
        raise _forged()
    return after


def _mac(key: bytes, question: str, after: str) -> bytes:
    return hmac.digest(key, f"{len(question)}:{question}{after}".encode(), hashlib.sha256)[:_MAC_BYTES]


def _forged() -> AppError:
    message = "the page token is not one of ours for this list: start again without it"
    return AppError(ErrorCode.INVALID, message, errors=(FieldError("/page_token", message),))
