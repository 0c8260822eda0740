"""An open-loop HTTP/1.1 load generator: requests are due at fixed times, whether or not earlier ones were answered.

Usage: python -m tests.bench.open_loop PORT --rate R --seconds S [--path /p] [--header-bytes N] [--token T --token-share F]
Latency is counted from when a request was due, so a server that stalls is seen in every request that it held up. Run as
a process of its own so that its CPU time is its own. Prints one JSON object: requests, microseconds {p50, p99, p99.9,
max}, statuses, and `late`, the 99th percentile of how late this generator itself was.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import re
import time
from collections import Counter, deque
from typing import Any, cast

import uvloop

from tests.bench.load import quantile

_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
_TICK_SECONDS = 0.0005
_HEADER_VALUE_BYTES = 200


class _Connection(asyncio.Protocol):
    """A kept-alive connection with one request in flight at a time."""

    def __init__(self, load: _Load) -> None:
        self._load = load
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own class, which is not a subclass

    def send(self, due: float, request: bytes) -> None:
        assert self._transport is not None
        self._due = due
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        length = _LENGTH.search(head)
        if len(body) < (int(length.group(1)) if length else 0):
            return
        self._buffer = b""
        self._load.answered(self, self._due, head[9:12].decode())

    def connection_lost(self, error: Exception | None) -> None:
        del error
        self._load.lost(self)


class _Load:
    """The schedule, the free connections, and what came of each request."""

    def __init__(self, port: int, requests: list[bytes], rate: float, seconds: float) -> None:
        self._port = port
        self._requests = requests
        self._rate = rate
        self._total = int(rate * seconds)
        self._free: deque[_Connection] = deque()
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._open = 0
        self._ended = False
        self.latencies: list[float] = []
        self.lateness: list[float] = []
        self.statuses: Counter[str] = Counter()

    async def connect(self, connections: int) -> None:
        """Open what there shall be."""
        loop = asyncio.get_running_loop()
        for _ in range(connections):
            _, connection = await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self._port)
            self._free.append(connection)
            self._open += 1

    async def run(self) -> None:
        """Send everything at its time, and wait for the answers."""
        started = time.perf_counter() + 0.05
        sent = 0
        while sent < self._total:
            now = time.perf_counter()
            due_by_now = min(self._total, int((now - started) * self._rate) + 1) if now > started else 0
            while sent < due_by_now:
                due = started + sent / self._rate
                self.lateness.append(now - due)
                self._offer(due, self._requests[sent % len(self._requests)])
                sent += 1
            await asyncio.sleep(_TICK_SECONDS)
        until = time.perf_counter() + 5.0
        while sum(self.statuses.values()) < self._total and time.perf_counter() < until:
            await asyncio.sleep(0.01)
        self._ended = True
        missing = self._total - sum(self.statuses.values())
        if missing:
            self.statuses["no answer"] = missing

    def _offer(self, due: float, request: bytes) -> None:
        if self._free:
            self._free.popleft().send(due, request)
        else:
            self._waiting.append((due, request))

    def answered(self, connection: _Connection, due: float, status: str) -> None:
        self.latencies.append(time.perf_counter() - due)
        self.statuses[status] += 1
        if self._waiting:
            connection.send(*self._waiting.popleft())
        else:
            self._free.append(connection)

    def lost(self, connection: _Connection) -> None:
        self._open -= 1
        if connection in self._free:
            self._free.remove(connection)
        elif not self._ended:
            self.statuses["connection lost"] += 1


def requests_of(given: argparse.Namespace) -> list[bytes]:
    """A hundred requests, of which the wanted share carries the token; those are spread evenly."""
    filler = "".join(
        f"x-filler-{index}: {'v' * _HEADER_VALUE_BYTES}\r\n"
        for index in range(given.header_bytes // (_HEADER_VALUE_BYTES + 15))
    )
    head = f"{given.method} {given.path} HTTP/1.1\r\nhost: orders.shop\r\n{filler}"
    with_token = f"{head}authorization: Bearer {given.token}\r\n\r\n".encode()
    without = f"{head}\r\n".encode()
    every = 1 / given.token_share if given.token and given.token_share else 0.0
    marks = {int(index * every) for index in range(int(100 * given.token_share))} if every else set()
    return [with_token if index in marks else without for index in range(100)]


def result_of(load: _Load) -> dict[str, Any]:
    """The figures."""
    ordered = sorted(load.latencies)
    return {
        "requests": len(ordered),
        "microseconds": {
            name: round(quantile(ordered, share) * 1e6, 1)
            for name, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0))
        },
        "late": round(quantile(sorted(load.lateness), 0.99) * 1e6, 1),
        "statuses": dict(load.statuses),
    }


async def _run(given: argparse.Namespace) -> dict[str, Any]:
    load = _Load(given.port, requests_of(given), given.rate, given.seconds)
    await load.connect(given.connections)
    gc.disable()
    await load.run()
    return result_of(load)


def main() -> None:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--rate", type=float, default=1000.0)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--path", default="/")
    parser.add_argument("--method", default="GET")
    parser.add_argument("--header-bytes", type=int, default=0)
    parser.add_argument("--token", default="")
    parser.add_argument("--token-share", type=float, default=0.0)
    print(json.dumps(uvloop.run(_run(parser.parse_args()))))


if __name__ == "__main__":
    main()
