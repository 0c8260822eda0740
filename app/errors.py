"""The one error type of Gatehouse, with a closed set of codes.

A refusal that belongs to the question (a denied request) is a value, never an error; an `AppError` means that
the question could not be answered or must not be. Two total tables map the codes outwards: `app.rpc.status`
to gRPC status codes and `app.rest.problems` to RFC 9457 problem types.

`detail` is written for the caller and leaves the process. What only an operator may know goes to the log,
or into `diagnosis`, which no adapter ever sends.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ErrorCode(StrEnum):
    """Why a question could not be answered."""

    MALFORMED = "malformed"  # the bytes or the syntax are wrong
    INVALID = "invalid"  # well-formed, but the content is not acceptable
    UNAUTHENTICATED = "unauthenticated"
    PERMISSION_DENIED = "permission_denied"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"  # exists already, or is owned by another source
    PRECONDITION_REQUIRED = "precondition_required"  # If-Match is missing
    PRECONDITION_FAILED = "precondition_failed"  # If-Match does not hold
    FAILED_PRECONDITION = "failed_precondition"  # the system is not in a state for it
    TOO_LARGE = "too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    RATE_LIMITED = "rate_limited"  # this caller asks too often
    OVERLOADED = "overloaded"  # everybody asks too often
    UNAVAILABLE = "unavailable"  # try again; a dependency is away
    TIMEOUT = "timeout"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing that is wrong in a document: where (JSON pointer, RFC 6901) and what to do about it."""

    pointer: str
    message: str


class AppError(Exception):
    """The question could not be answered; `code` says why and `detail` says what the caller can do."""

    def __init__(
        self,
        code: ErrorCode,
        detail: str,
        *,
        errors: tuple[FieldError, ...] = (),
        diagnosis: str = "",
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.errors = errors
        self.diagnosis = diagnosis

    def __repr__(self) -> str:
        return f"AppError({self.code.value}, {self.detail!r})"
