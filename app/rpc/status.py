"""Error codes as gRPC status codes: one total table, and the text that goes with a code.

ztunnel treats all codes alike and shows the message in its log, so the message names what to do and carries the
request id. istio-agent retries UNAVAILABLE, RESOURCE_EXHAUSTED and INTERNAL inside one call and never retries
UNAUTHENTICATED or INVALID_ARGUMENT.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import grpc

from app.errors import AppError, ErrorCode

MAX_MESSAGE_CHARS = 512

STATUS_OF_CODE: Mapping[ErrorCode, grpc.StatusCode] = MappingProxyType(
    {
        ErrorCode.MALFORMED: grpc.StatusCode.INVALID_ARGUMENT,
        ErrorCode.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
        ErrorCode.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
        ErrorCode.PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
        ErrorCode.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
        ErrorCode.CONFLICT: grpc.StatusCode.ALREADY_EXISTS,
        ErrorCode.PRECONDITION_REQUIRED: grpc.StatusCode.FAILED_PRECONDITION,
        ErrorCode.PRECONDITION_FAILED: grpc.StatusCode.ABORTED,
        ErrorCode.FAILED_PRECONDITION: grpc.StatusCode.FAILED_PRECONDITION,
        ErrorCode.TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
        ErrorCode.UNSUPPORTED_MEDIA_TYPE: grpc.StatusCode.INVALID_ARGUMENT,
        ErrorCode.RATE_LIMITED: grpc.StatusCode.RESOURCE_EXHAUSTED,
        ErrorCode.OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
        ErrorCode.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
        ErrorCode.TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
        ErrorCode.INTERNAL: grpc.StatusCode.INTERNAL,
    }
)


def status_of(error: AppError) -> grpc.StatusCode:
    """The gRPC status code of an error."""
    return STATUS_OF_CODE[error.code]


def message_of(error: AppError, request_id: str) -> str:
    """The text that leaves the process: what the caller can do, and the request id to ask about.

    An internal error says nothing but its id, whatever its detail; the detail is in the log under that id.
    """
    detail = "internal error" if error.code is ErrorCode.INTERNAL else error.detail[:MAX_MESSAGE_CHARS]
    return f"{detail} (request {request_id})"
