"""A closed-loop HTTP/1.1 load generator, run as a process of its own so that its CPU time is its own.

Usage: python -m tests.bench.load PORT --connections N --seconds S [--path /p] [--method GET]
Prints one JSON object: requests, seconds, requests_per_second, microseconds {p50, p90, p99, max}, statuses.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import time
from collections import Counter
from typing import cast

import uvloop

_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)


class _Connection(asyncio.Protocol):
    """One connection with one request in flight at a time."""

    def __init__(self, request: bytes, deadline: float, results: list[float], statuses: Counter[str]) -> None:
        self._request = request
        self._deadline = deadline
        self._results = results
        self._statuses = statuses
        self._buffer = b""
        self._sent_at = 0.0
        self._transport: asyncio.Transport | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own class, which is not a subclass
        self._send()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        length = _LENGTH.search(head)
        if len(body) < (int(length.group(1)) if length else 0):
            return
        now = time.perf_counter()
        self._results.append(now - self._sent_at)
        self._statuses[head[9:12].decode()] += 1
        self._buffer = b""
        if now < self._deadline:
            self._send()
        else:
            self._finish()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self._statuses["connection lost"] += 1
            self.done.set_result(None)

    def _send(self) -> None:
        assert self._transport is not None
        self._sent_at = time.perf_counter()
        self._transport.write(self._request)

    def _finish(self) -> None:
        assert self._transport is not None
        if not self.done.done():
            self.done.set_result(None)
        self._transport.close()


def quantile(ordered: list[float], share: float) -> float:
    """The value below which `share` of an ordered list lies."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


async def _run(port: int, request: bytes, connections: int, seconds: float) -> dict[str, object]:
    loop = asyncio.get_running_loop()
    results: list[float] = []
    statuses: Counter[str] = Counter()
    started = time.perf_counter()
    opened = [
        (
            await loop.create_connection(
                lambda: _Connection(request, started + seconds, results, statuses), "127.0.0.1", port
            )
        )[1]
        for _ in range(connections)
    ]
    await asyncio.gather(*(connection.done for connection in opened))
    took = time.perf_counter() - started
    ordered = sorted(results)
    return {
        "requests": len(results),
        "seconds": round(took, 3),
        "requests_per_second": round(len(results) / took, 1),
        "microseconds": {
            "p50": round(quantile(ordered, 0.5) * 1e6, 1),
            "p90": round(quantile(ordered, 0.9) * 1e6, 1),
            "p99": round(quantile(ordered, 0.99) * 1e6, 1),
            "max": round(quantile(ordered, 1.0) * 1e6, 1),
        },
        "statuses": dict(statuses),
    }


def main() -> None:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--method", default="GET")
    parser.add_argument("--path", default="/")
    parser.add_argument("--host", default="orders.shop.svc.cluster.local")
    given = parser.parse_args()
    request = f"{given.method} {given.path} HTTP/1.1\r\nhost: {given.host}\r\nuser-agent: bench\r\n\r\n".encode()
    print(json.dumps(uvloop.run(_run(given.port, request, given.connections, given.seconds))))


if __name__ == "__main__":
    main()
