"""The table of status codes is total, and messages are safe to send."""

from __future__ import annotations

from app.errors import AppError, ErrorCode
from app.rpc.status import MAX_MESSAGE_CHARS, STATUS_OF_CODE, message_of, status_of


def test_every_error_code_has_a_status() -> None:
    """A new code cannot be forgotten."""
    assert set(STATUS_OF_CODE) == set(ErrorCode)
    assert all(status_of(AppError(code, "x")) is STATUS_OF_CODE[code] for code in ErrorCode)


def test_a_message_carries_detail_and_request_but_never_the_diagnosis() -> None:
    """Operators find the rest by the id."""
    error = AppError(ErrorCode.INVALID, "too short", diagnosis="secret")

    assert message_of(error, "r-1") == "too short (request r-1)"


def test_an_internal_error_says_nothing() -> None:
    """Whatever its detail was."""
    assert message_of(AppError(ErrorCode.INTERNAL, "lint: x"), "r-1") == "internal error (request r-1)"


def test_a_message_is_bounded() -> None:
    """It travels in a trailer."""
    assert len(message_of(AppError(ErrorCode.INVALID, "x" * 10_000), "r")) < MAX_MESSAGE_CHARS + 32
