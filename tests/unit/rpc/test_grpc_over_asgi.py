"""gRPC over ASGI: five bytes before the message, the status in the trailers."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from app.rpc.grpc_over_asgi import AsgiCall, GrpcOverAsgi

Event = MutableMapping[str, Any]
METHOD = "/a.b/C"


def _framed(message: bytes, *, flag: int = 0) -> bytes:
    return bytes((flag,)) + len(message).to_bytes(4, "big") + message


async def _call(application: GrpcOverAsgi, *chunks: bytes, path: str = METHOD) -> tuple[bytes, dict[bytes, bytes]]:
    """The body and the headers and trailers together."""
    events: list[Event] = [
        {"type": "http.request", "body": chunk, "more_body": index < len(chunks) - 1}
        for index, chunk in enumerate(chunks)
    ]
    sent: list[Event] = []

    async def receive() -> Event:
        if events:
            return events.pop(0)
        await asyncio.Event().wait()  # the caller stays
        raise AssertionError

    async def send(event: Event) -> None:
        sent.append(event)

    await application({"type": "http", "path": path, "headers": ()}, receive, send)
    fields = {name: value for event in sent for name, value in event.get("headers", ())}
    return b"".join(event.get("body", b"") for event in sent), fields


def _reverse(message: bytes, _: AsgiCall) -> bytes:
    return message[::-1]


@pytest.mark.parametrize(
    "chunks", [[_framed(b"abc")], [_framed(b"abc")[:3], _framed(b"abc")[3:]], [_framed(b"abc"), b""]]
)
async def test_a_message_is_answered_with_a_message_and_status_zero(chunks: list[bytes]) -> None:
    """In however many pieces the body comes."""
    body, fields = await _call(GrpcOverAsgi({METHOD: _reverse}, max_message_bytes=10), *chunks)

    assert _framed(b"cba") == body
    assert b"0" == fields[b"grpc-status"]
    assert b"application/grpc" == fields[b"content-type"]


async def test_an_answer_may_take_its_time() -> None:
    """A method that asks somebody else gives an awaitable."""

    async def later(message: bytes, _: AsgiCall) -> bytes:
        await asyncio.sleep(0)
        return message * 2

    body, fields = await _call(GrpcOverAsgi({METHOD: later}, max_message_bytes=10), _framed(b"ab"))

    assert (_framed(b"abab"), b"0") == (body, fields[b"grpc-status"])


@pytest.mark.parametrize(
    ("chunks", "path", "status"),
    [
        ([_framed(b"")], "/a.b/D", b"12"),
        ([b""], METHOD, b"3"),
        ([b"\0\0\0"], METHOD, b"3"),
        ([_framed(b"abc", flag=1)], METHOD, b"3"),
        ([_framed(b"abc") + b"d"], METHOD, b"3"),
        ([_framed(b"a") * 2], METHOD, b"3"),
        ([_framed(b"a" * 11)], METHOD, b"8"),
        ([b"\0\0\0\0\x0b", b"a" * 9, b"a" * 9, b"never read"], METHOD, b"8"),
    ],
    ids=["method", "empty", "short", "compressed", "longer", "two", "large", "large in pieces"],
)
async def test_what_is_no_call_is_refused_with_a_status(chunks: list[bytes], path: str, status: bytes) -> None:
    """Never by an exception, and without a message."""
    body, fields = await _call(GrpcOverAsgi({METHOD: _reverse}, max_message_bytes=10), *chunks, path=path)

    assert (b"", status) == (body, fields[b"grpc-status"])
    assert fields[b"grpc-message"]


async def test_a_caller_that_left_gets_nothing() -> None:
    """A body that never ends is not answered."""
    sent: list[Event] = []
    events: list[Event] = [{"type": "http.request", "body": b"\0", "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> Event:
        return events.pop(0)

    async def send(event: Event) -> None:
        sent.append(event)

    await GrpcOverAsgi({METHOD: _reverse}, max_message_bytes=10)({"type": "http", "path": METHOD}, receive, send)

    assert [] == sent


@pytest.mark.parametrize("waits", [True, False])
async def test_a_caller_that_leaves_cancels_the_answer_that_it_waited_for(waits: bool) -> None:
    """Nobody is asked on for it, and nothing is sent."""
    asked, cancelled, left = asyncio.Event(), asyncio.Event(), asyncio.Event()
    sent: list[Event] = []
    events: list[Event] = [{"type": "http.request", "body": _framed(b"a")}]
    if not waits:  # as pyvoy: it says again and again that the body has ended
        events += [{"type": "http.request", "body": b"", "more_body": False}] * 2

    async def ask(_: bytes, __: AsgiCall) -> bytes:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    async def receive() -> Event:
        if events:
            return events.pop(0)
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(event: Event) -> None:
        sent.append(event)

    application = GrpcOverAsgi({METHOD: ask}, max_message_bytes=10)
    call = asyncio.create_task(application({"type": "http", "path": METHOD, "headers": ()}, receive, send))
    await asked.wait()
    left.set()
    await call
    await asyncio.wait_for(cancelled.wait(), 5.0)

    assert [] == sent


async def test_an_awaited_answer_that_fails_fails_the_call() -> None:
    """The host is told; it is not taken for a caller that left."""

    async def fail(_: bytes, __: AsgiCall) -> bytes:
        raise ValueError

    with pytest.raises(ValueError):
        await _call(GrpcOverAsgi({METHOD: fail}, max_message_bytes=10), _framed(b"a"))


@pytest.mark.parametrize(
    ("value", "most"),
    [
        (b"1S", 1.0), (b"200m", 0.2), (b"150000u", 0.15), (b"99999999n", 0.1), (b"2M", 120.0), (b"1H", 3_600.0),
        (b"0S", 0.0), (b"", None), (b"S", None), (b"1", None), (b"-1S", None), (b"1.5S", None), (b"123456789S", None),
        (b"\xb2S", None), (b"1s", None),
    ],
)  # fmt: skip
async def test_a_method_knows_how_long_its_caller_waits(value: bytes, most: float | None) -> None:
    """PROTOCOL-HTTP2 "Timeout"; what is none counts as not said."""
    call = AsgiCall({"headers": [(b"te", b"trailers"), (b"grpc-timeout", value)]})
    remaining = call.time_remaining()

    if most is None:
        assert remaining is None
    else:
        assert remaining is not None
        assert max(0.0, most - 0.1) <= remaining <= most
    assert AsgiCall({"headers": []}).time_remaining() is None
