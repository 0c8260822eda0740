"""The small HTTP service behind the waypoint: whatever reaches it was let through."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self

LOOPBACK = "127.0.0.1"
HEAD_SECONDS = 10.0
_BODY = b"42 orders\n"
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n%s" % (len(_BODY), _BODY)


class OrdersService:
    """Answers every request with the same 42 orders, and counts them."""

    def __init__(self) -> None:
        self.served = 0
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        """Listen on a free loopback port."""
        self._server = await asyncio.start_server(self._serve, LOOPBACK, 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()

    @property
    def address(self) -> str:
        """The `host:port` to reach it at."""
        if self._server is None:
            raise RuntimeError("the service is not running")
        return f"{LOOPBACK}:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended = (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError)
        with contextlib.closing(writer), contextlib.suppress(*ended):
            while True:
                async with asyncio.timeout(HEAD_SECONDS):
                    await reader.readuntil(b"\r\n\r\n")
                self.served += 1
                writer.write(_ANSWER)
                await writer.drain()
