"""The answers that a listener gives by itself, before or instead of the application's.

All are RFC 9457 problem documents, so that a client has one shape to read, and all end the connection: after
each of them the state of the conversation is not worth saving.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus

from app.errors import ErrorCode

PROBLEM_TYPE = "urn:gatehouse:problem:"
PROBLEM_MEDIA_TYPE = b"application/problem+json"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A fixed answer of the listener."""

    status: int
    code: ErrorCode
    detail: str
    retry_after_seconds: int = 0

    @property
    def body(self) -> bytes:
        """The problem document."""
        return json.dumps(
            {
                "type": PROBLEM_TYPE + self.code.value.replace("_", "-"),
                "title": HTTPStatus(self.status).phrase,
                "status": self.status,
                "code": self.code.value,
                "detail": self.detail,
            }
        ).encode()

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The response headers, the end of the connection included."""
        headers = [
            (b"content-type", PROBLEM_MEDIA_TYPE),
            (b"content-length", str(len(self.body)).encode()),
            (b"cache-control", b"no-store"),
            (b"connection", b"close"),
        ]
        if self.retry_after_seconds:
            headers.append((b"retry-after", str(self.retry_after_seconds).encode()))
        return headers

    def raw(self) -> bytes:
        """The whole HTTP/1.1 response, for where there is no HTTP state yet."""
        head = f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}\r\n".encode()
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in self.headers())
        return head + lines + b"\r\n" + self.body


MALFORMED = Refusal(400, ErrorCode.MALFORMED, "The request is not well-formed HTTP/1.1.")
HEADERS_TOO_LARGE = Refusal(431, ErrorCode.TOO_LARGE, "The request line and headers are larger than this server reads.")
NOT_IMPLEMENTED = Refusal(501, ErrorCode.MALFORMED, "This transfer encoding is not supported.")
BODY_TOO_LARGE = Refusal(413, ErrorCode.TOO_LARGE, "The request body is larger than this server reads.")
HEADERS_TOO_SLOW = Refusal(408, ErrorCode.TIMEOUT, "The request headers did not arrive in time.")
BODY_TOO_SLOW = Refusal(408, ErrorCode.TIMEOUT, "The request body arrived too slowly.")
BUDGET_SPENT = Refusal(504, ErrorCode.TIMEOUT, "The request took longer than its time budget; try again.", 1)
TOO_MANY_CONNECTIONS = Refusal(503, ErrorCode.OVERLOADED, "Too many connections are open; close some or try again.", 1)
