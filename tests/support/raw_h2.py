"""An HTTP/2 client that does as it is told, for what a gRPC client would never send."""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import h2.config
import h2.connection
import h2.events


def grpc_frame(message: bytes) -> bytes:
    """One uncompressed gRPC message."""
    return struct.pack(">BI", 0, len(message)) + message


class RawH2:
    """One connection; events are collected as they come."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        config = h2.config.H2Configuration(
            client_side=True, header_encoding="utf-8", validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self.connection = h2.connection.H2Connection(config)
        self.events: list[h2.events.Event] = []
        self.closed = False
        self._arrived = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self.connection.initiate_connection()
        await self.flush()
        self._task = asyncio.create_task(self._read())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        self._writer.close()

    async def flush(self) -> None:
        if not self.closed:
            self._writer.write(self.connection.data_to_send())
            await self._writer.drain()

    async def call(self, path: str, message: bytes = b"", extra: Sequence[tuple[str, str]] = ()) -> int:
        """Send one unary request; its stream."""
        stream = self.connection.get_next_available_stream_id()
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            *extra,
        ]
        self.connection.send_headers(stream, headers)
        self.connection.send_data(stream, grpc_frame(message), end_stream=True)
        await self.flush()
        return stream

    async def ping(self) -> None:
        if any(isinstance(event, h2.events.ConnectionTerminated) for event in self.events):
            return  # told to leave: h2 sends nothing more
        self.connection.ping(b"12345678")
        await self.flush()

    async def wait_for(self, kind: type[h2.events.Event], timeout: float = 30.0, **matching: Any) -> Any:
        """The first event of a kind, with the given attributes."""

        def found() -> h2.events.Event | None:
            for event in self.events:
                if isinstance(event, kind) and all(getattr(event, k) == v for k, v in matching.items()):
                    return event
            return None

        async with asyncio.timeout(timeout), self._arrived:
            await self._arrived.wait_for(lambda: found() is not None or self.closed)
        event = found()
        if event is None:
            raise ConnectionError(f"the connection ended without {kind.__name__}")
        return event

    async def status(self, stream: int, timeout: float = 30.0) -> tuple[str, str]:
        """`grpc-status` and `grpc-message` of a stream."""
        await self.wait_for(h2.events.StreamEnded, timeout, stream_id=stream)
        headers: dict[str, str] = {}
        for event in self.events:
            if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived) and event.stream_id == stream:
                headers.update(event.headers or ())
        return headers.get("grpc-status", ""), headers.get("grpc-message", "")

    async def _read(self) -> None:
        try:
            while True:
                # Frame by frame: h2 takes nothing after a GOAWAY, and the events before it must not be lost.
                frame = await self._reader.readexactly(9)
                frame += await self._reader.readexactly(int.from_bytes(frame[:3]))
                events = self.connection.receive_data(frame)
                async with self._arrived:
                    self.events.extend(events)
                    self._arrived.notify_all()
                await self.flush()
        except (ConnectionError, asyncio.IncompleteReadError, h2.exceptions.ProtocolError):
            pass
        finally:
            self.closed = True
            async with self._arrived:
                self._arrived.notify_all()


@asynccontextmanager
async def connect(port: int, tls: ssl.SSLContext | None = None) -> AsyncIterator[RawH2]:
    """A connection to a listener on 127.0.0.1."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=tls, server_hostname="localhost" if tls else None
    )
    client = RawH2(reader, writer)
    await client.start()
    try:
        yield client
    finally:
        await client.stop()
