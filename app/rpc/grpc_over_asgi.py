"""Unary gRPC methods as an ASGI application, for a host that speaks HTTP/2 itself: bytes to bytes.

The host (Envoy with Python inside) terminates connections, streams and header bounds; what is left is the frame of
gRPC-over-HTTP2 (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md): five bytes before the message, and
the status in the trailers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_PREFIX_BYTES = 5  # one of flags, four of length
_HEADERS = [(b"content-type", b"application/grpc")]
_START = {"type": "http.response.start", "status": 200, "headers": _HEADERS, "trailers": True}
_OK = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]}

_TIMEOUT = b"grpc-timeout"
_UNIT_SECONDS = {b"H": 3_600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_MAX_DIGITS = 8
_LOOK_SECONDS = 0.01  # between two looks whether a caller is still there, while others are asked for it

INVALID_ARGUMENT = 3
RESOURCE_EXHAUSTED = 8
UNIMPLEMENTED = 12


class AsgiCall:
    """What a method may know of its call."""

    __slots__ = ("_arrived", "_scope")

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._arrived = time.monotonic()

    def time_remaining(self) -> float | None:
        """Seconds that the caller still waits, by its `grpc-timeout`; None when it says nothing that can be read."""
        for name, value in self._scope["headers"]:
            if name == _TIMEOUT:
                digits, unit = value[:-1], _UNIT_SECONDS.get(value[-1:])
                if unit is not None and digits.isdigit() and len(digits) <= _MAX_DIGITS:
                    return max(0.0, int(digits) * unit - (time.monotonic() - self._arrived))
        return None


Answer = Callable[[bytes, AsgiCall], bytes | Awaitable[bytes]]


class GrpcOverAsgi:
    """Answers unary calls. `methods` maps a full method path to a function from the message to the answer's message.

    An answer that is awaited is cancelled when the caller goes away.
    """

    def __init__(self, methods: Mapping[str, Answer], *, max_message_bytes: int) -> None:
        self._methods = methods
        self._most = max_message_bytes + _PREFIX_BYTES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one call."""
        answer = self._methods.get(scope["path"])
        if answer is None:
            await _refuse(send, UNIMPLEMENTED, "no such method")
            return
        call = AsgiCall(scope)
        event = await receive()
        body: bytes = event.get("body", b"")
        while event.get("more_body"):
            if len(body) > self._most:
                break
            event = await receive()
            if event["type"] != "http.request":
                return  # the caller is gone
            body += event.get("body", b"")
        if len(body) > self._most:
            await _refuse(send, RESOURCE_EXHAUSTED, "the message is too large")
            return
        if len(body) < _PREFIX_BYTES or body[0] or int.from_bytes(body[1:5], "big") != len(body) - _PREFIX_BYTES:
            await _refuse(send, INVALID_ARGUMENT, "one message without compression is wanted")
            return
        reply = answer(body[_PREFIX_BYTES:], call)
        if not isinstance(reply, bytes):
            awaited = await _unless_gone(reply, receive)
            if awaited is None:
                return
            reply = awaited
        await send(_START)
        await send({"type": "http.response.body", "body": b"\0" + len(reply).to_bytes(4, "big") + reply})
        await send(_OK)


async def _unless_gone(reply: Awaitable[bytes], receive: Receive) -> bytes | None:
    """The reply, None when the caller is gone before: then nobody works on it any more."""
    working = asyncio.ensure_future(reply)
    leaving = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        leaving.cancel()


async def _left(receive: Receive) -> None:
    """Returns when the caller has left.

    By ASGI, `receive` waits for that once the body is read; pyvoy's does not wait, so it is asked now and then.
    """
    while (await receive())["type"] == "http.request":  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(_LOOK_SECONDS)


async def _refuse(send: Send, status: int, message: str) -> None:
    """A trailers-only answer."""
    headers = [*_HEADERS, (b"grpc-status", str(status).encode()), (b"grpc-message", message.encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
