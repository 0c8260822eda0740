"""Check through gRPC, without Envoy: CPU and wall time, the worst latency during a swap, balance over workers.

Usage: python -m tests.bench.check [--quick]
Workers are processes of their own, so their CPU time is theirs; the client is this process.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc.aio
import uvloop

from app.rpc.check import CHECK_PATH
from app.rpc.pb.ext_authz_pb2 import CheckRequest, CheckResponse
from tests.bench.cpu import cpu_seconds
from tests.bench.load import quantile
from tests.support.decisions import FRONTEND, ORDERS_IP, WAYPOINT

SIZES = (10, 1_000, 10_000)
CONNECTIONS = (2, 4, 20)


class _WorkerProcess:
    """A worker in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, hello: dict[str, Any]) -> None:
        self._process = process
        self.pid = process.pid
        self.port: int = hello["port"]
        self.load_seconds: float = hello["load_seconds"]

    @classmethod
    @asynccontextmanager
    async def started(cls, policies: int, port: int = 0) -> AsyncIterator[_WorkerProcess]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.bench.check_worker",
            "--policies",
            str(policies),
            "--port",
            str(port),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            yield cls(process, json.loads(await process.stdout.readline()))
        finally:
            process.stdin.close()
            await process.wait()

    async def ask(self, command: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\n".encode())
        answer: dict[str, Any] = json.loads(await self._process.stdout.readline())
        return answer


def _question(headers: int) -> bytes:
    """A request as a waypoint sends it, with that many ordinary headers; it is allowed."""
    request = CheckRequest()
    attributes = request.attributes
    attributes.source.address.socket_address.address = "10.0.1.11"
    attributes.source.address.socket_address.port_value = 40_000
    attributes.destination.address.socket_address.address = ORDERS_IP
    attributes.destination.address.socket_address.port_value = 8080
    http = attributes.request.http
    http.id, http.method, http.path, http.host = "1234567890", "GET", "/orders/17?full=1", "orders.shop:8080"
    http.protocol, http.scheme = "HTTP/1.1", "http"
    http.headers["x-forwarded-client-cert"] = f"By={WAYPOINT};URI={FRONTEND}"
    for index in range(headers):
        http.headers[f"x-ordinary-header-{index}"] = f"an ordinary value {index}"
    return request.SerializeToString()


@asynccontextmanager
async def channel(port: int) -> AsyncIterator[Any]:
    """One connection of its own, as a method to call."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options) as channel:
        yield channel.unary_unary(CHECK_PATH)


async def _ask_until(check: Any, data: bytes, ends: asyncio.Event, latencies: list[float]) -> None:
    while not ends.is_set():
        started = time.perf_counter()
        await check(data)
        latencies.append(time.perf_counter() - started)


async def _measure(worker: _WorkerProcess, data: bytes, *, in_flight: int, seconds: float) -> dict[str, Any]:
    async with channel(worker.port) as check:
        answer = CheckResponse.FromString(await check(data))
        assert answer.status.code == 0, answer
        await ask_steadily(check, data, in_flight, seconds / 5)  # warm
        before = cpu_seconds([worker.pid])
        latencies = await ask_steadily(check, data, in_flight, seconds)
        cpu = cpu_seconds([worker.pid]) - before
    ordered = sorted(latencies)
    return {
        "checks": len(ordered),
        "cpu_us_per_check": round(cpu / len(ordered) * 1e6, 1),
        "checks_per_second": round(len(ordered) / seconds),
        "wall_us": {
            "p50": round(quantile(ordered, 0.5) * 1e6, 1),
            "p99": round(quantile(ordered, 0.99) * 1e6, 1),
            "max": round(ordered[-1] * 1e6, 1),
        },
    }


async def ask_steadily(check: Any, data: bytes, in_flight: int, seconds: float) -> list[float]:
    latencies: list[float] = []
    ends = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, ends.set)
    gc.disable()  # a collection of this client is not a latency of the worker
    try:
        await asyncio.gather(*(_ask_until(check, data, ends, latencies) for _ in range(in_flight)))
    finally:
        gc.enable()
    return latencies


async def _swap(worker: _WorkerProcess, data: bytes, which: str, rounds: int) -> dict[str, Any]:
    """The worst Check of all during swaps, beside the worst during as long a time without one."""
    worst, quiet, loads = [], [], []
    async with channel(worker.port) as check:
        await check(data)
        for _ in range(rounds):
            await worker.ask(f"prepare {which}")
            latencies: list[float] = []
            ends = asyncio.Event()
            running = asyncio.create_task(_ask_until(check, data, ends, latencies))
            await asyncio.sleep(0.05)
            load = await worker.ask("swap")
            await asyncio.sleep(0.05)
            ends.set()
            await running  # with the Check that is under way: it may be the worst
            loads.append(load)
            worst.append(max(latencies))
            quiet.append(max(await ask_steadily(check, data, 1, 0.1 + load["seconds"])))
    return {
        "compiled": loads[-1]["compiled"],
        "load_ms": round(statistics.median(load["seconds"] for load in loads) * 1e3, 1),
        "worst_check_ms": {"median": round(statistics.median(worst) * 1e3, 2), "max": round(max(worst) * 1e3, 2)},
        "worst_check_ms_without_a_swap": {
            "median": round(statistics.median(quiet) * 1e3, 2),
            "max": round(max(quiet) * 1e3, 2),
        },
    }


async def _balance(workers: int, connections: int, trials: int, per_connection: int) -> dict[str, Any]:
    """How evenly the kernel spreads connections, and with them Checks, over workers that share a port."""
    data = _question(10)
    variations, idle = [], 0
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(_WorkerProcess.started(10))
        processes = [first] + [
            await stack.enter_async_context(_WorkerProcess.started(10, first.port)) for _ in range(workers - 1)
        ]
        for _ in range(trials):
            before = [(await process.ask("count"))["checks"] for process in processes]
            async with AsyncExitStack() as channels:
                checks = [await channels.enter_async_context(channel(first.port)) for _ in range(connections)]

                async def ask(check: Any) -> None:
                    for _ in range(per_connection):
                        await check(data)

                await asyncio.gather(*(ask(check) for check in checks))
            after = [(await process.ask("count"))["checks"] for process in processes]
            shares = [now - then for now, then in zip(after, before, strict=True)]
            assert sum(shares) == connections * per_connection
            variations.append(statistics.pstdev(shares) / statistics.mean(shares))
            idle += shares.count(0)
    return {
        "coefficient_of_variation": {
            "mean": round(statistics.mean(variations), 2),
            "max": round(max(variations), 2),
        },
        "idle_workers_per_trial": round(idle / trials, 2),
        "trials": trials,
    }


async def _main(quick: bool) -> dict[str, Any]:
    seconds = 0.3 if quick else 3.0
    sizes = SIZES[:2] if quick else SIZES
    report: dict[str, Any] = {"policies": {}, "balance": {}}
    for size in sizes:
        async with _WorkerProcess.started(size) as worker:
            report["policies"][str(size)] = {
                "load_seconds": worker.load_seconds,
                "one_at_a_time": await _measure(worker, _question(10), in_flight=1, seconds=seconds),
                "sixteen_at_a_time": await _measure(worker, _question(10), in_flight=16, seconds=seconds),
                "ten_kilobytes_of_headers": await _measure(worker, _question(180), in_flight=16, seconds=seconds),
                "swap_of_one_policy": await _swap(worker, _question(10), "one", 2 if quick else 10),
                "swap_of_all_policies": await _swap(worker, _question(10), "all", 1 if quick else 3),
            }
    for workers in (2, 4):
        report["balance"][f"{workers}_workers"] = {
            f"{connections}_connections": await _balance(workers, connections, 2 if quick else 20, 10)
            for connections in CONNECTIONS
        }
    return report


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    print(json.dumps(uvloop.run(_main(parser.parse_args().quick))))
