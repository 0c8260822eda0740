"""A steady load of HTTP/1.1 requests over keep-alive connections, which counts what came back."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

_REQUEST = b"GET /orders HTTP/1.1\r\nhost: shop.example\r\n\r\n"


@dataclass
class Load:
    """What came back so far: answers by status, and the slowest one."""

    statuses: Counter[int] = field(default_factory=Counter)
    slowest_seconds: float = 0.0

    @property
    def total(self) -> int:
        """How many answers came."""
        return self.statuses.total()


@asynccontextmanager
async def steady_load(port: int, *, per_second: float, connections: int = 8) -> AsyncIterator[Load]:
    """Send at a fixed rate while the context is open; a failed connection raises at its end."""
    load = Load()
    ended = asyncio.Event()
    interval = connections / per_second

    async def send() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        due = time.monotonic()
        try:
            while not ended.is_set():
                due = max(due + interval, time.monotonic() - 1.0)
                await asyncio.sleep(due - time.monotonic())
                started = time.monotonic()
                writer.write(_REQUEST)
                head = await reader.readuntil(b"\r\n\r\n")
                lines = head.decode("latin-1").lower().split("\r\n")
                length = next((int(line[15:]) for line in lines if line.startswith("content-length:")), 0)
                await reader.readexactly(length)
                load.statuses[int(lines[0].split()[1])] += 1
                load.slowest_seconds = max(load.slowest_seconds, time.monotonic() - started)
        finally:
            writer.close()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(connections):
            tasks.create_task(send())
        try:
            yield load
        finally:
            ended.set()
