"""The reason that an administrator gives for an act: free text, bounded, one line."""

from __future__ import annotations

from app.errors import AppError, ErrorCode, FieldError


def check_reason(reason: str, max_chars: int) -> str:
    """The reason as it will be stored.

    Raises:
        AppError: `INVALID` when it is too long or has control characters or lone surrogates.
    """
    if len(reason) > max_chars or not all(character.isprintable() for character in reason):
        message = f"a reason is one line of at most {max_chars} printable characters"
        raise AppError(ErrorCode.INVALID, message, errors=(FieldError("/reason", message),))
    return reason
