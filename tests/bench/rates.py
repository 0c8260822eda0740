"""What Check adds at a steady rate through the real Envoy, open loop: no filter, native RBAC, Gatehouse, OPA.

Requests carry 10 KB of headers, and 30 % of them a bearer token that a RequestAuthentication has verified; 10,000
policies, ten of which concern the target. Gatehouse is measured with each transport of `check.transport`: steadily, while
policies are pushed, with the authority dead, and while its worker is replaced. Latency counts from when a request was
due; what is added is against no filter at the same rate in the same run. `direct` is the worker alone, asked over gRPC with so
many questions in flight.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from app.demo.service import GatehouseService
from app.demo.waypoint import Enforcement, ExtAuthz, HboneClient, NativeRbac, Tunnel, Waypoint, WaypointOptions
from app.rpc.pb.ext_authz_pb2 import CheckRequest, CheckResponse
from app.supervisor.control import send_control
from tests.bench import check, mesh
from tests.bench.cpu import cpu_seconds
from tests.bench.load import quantile
from tests.support.pki import TestAuthority

RATES = (1_000, 3_000, 5_000)
HEADER_BYTES = 10_000
TOKEN_SHARE = 0.3
POLICIES = 10_000
TRANSPORTS = ("grpcio", "envoy")
IN_FLIGHT = (1, 16, 64)
_PUSH_EVERY_SECONDS = 0.25

Json = dict[str, Any]
Disturb = Callable[[], Awaitable[None]]


async def _open_loop(port: int, rate: int, seconds: float, token: str) -> Json:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.open_loop", str(port), "--path", mesh.PATH),
        *("--rate", str(rate), "--seconds", str(seconds), "--header-bytes", str(HEADER_BYTES)),
        *("--token", token, "--token-share", str(TOKEN_SHARE)),
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(seconds + 60):
        output, _ = await process.communicate()
    found: Json = json.loads(output)
    return found


class _Bench:
    """One way to enforce, measured at every rate."""

    def __init__(self, waypoint: Waypoint, client: HboneClient, seconds: float, token: str) -> None:
        self._waypoint = waypoint
        self._port = client.port("client")
        self._seconds = seconds
        self._token = token

    async def at(self, rate: int, workers: list[int], disturb: Disturb | None = None) -> Json:
        """The figures at one rate; `disturb` runs beside the load until it ends."""
        beside = None if disturb is None else asyncio.ensure_future(disturb())
        before = cpu_seconds([self._waypoint.pid]), cpu_seconds(workers)
        try:
            load = await _open_loop(self._port, rate, self._seconds, self._token)
        finally:
            if beside is not None:
                beside.cancel()
                await asyncio.gather(beside, return_exceptions=True)
        if beside is not None:
            return load  # workers came and went: their CPU time cannot be told
        after = cpu_seconds([self._waypoint.pid]), cpu_seconds(workers)
        each = 1e6 / max(1, load["requests"])
        load["waypoint_cpu_seconds_per_million"] = round((after[0] - before[0]) * each, 1)
        load["worker_cpu_seconds_per_million"] = round((after[1] - before[1]) * each, 1)
        return load

    async def warm(self) -> None:
        """Connections, caches, and the readings of the target."""
        load = await _open_loop(self._port, 500, self._seconds / 4, self._token)
        if set(load["statuses"]) != {"200"}:
            raise SystemExit(f"the load was not allowed: {load['statuses']}")


@contextlib.asynccontextmanager
async def _enforcing(
    authority: TestAuthority, enforcement: Enforcement, directory: Path, seconds: float, token: str
) -> AsyncIterator[_Bench]:
    options = WaypointOptions(credentials=authority.issue(mesh.WAYPOINT, file_name="waypoint"), enforcement=enforcement)
    async with Waypoint(options, directory) as waypoint:
        tunnel = Tunnel(
            credentials=authority.issue(mesh.CLIENT, file_name="client"),
            proxy=waypoint.address,
            destination=mesh.DESTINATION,
        )
        async with HboneClient({"client": tunnel}, directory) as client:
            bench = _Bench(waypoint, client, seconds, token)
            yield bench


async def _direct(port: int, workers: list[int], seconds: float) -> Json:
    """The worker alone: the same question again and again, without an Envoy that asks."""
    report: Json = {}
    question = _question()
    for in_flight in IN_FLIGHT:
        async with check.channel(port) as method:
            if CheckResponse.FromString(await method(question)).status.code != 0:
                raise SystemExit("the question was not allowed")
            await check.ask_steadily(method, question, in_flight, seconds / 10)
            before = cpu_seconds(workers)
            latencies = sorted(await check.ask_steadily(method, question, in_flight, seconds / 2))
            cpu = cpu_seconds(workers) - before
        report[str(in_flight)] = {
            "cpu_microseconds": round(cpu / len(latencies) * 1e6, 1),
            "checks_per_second": round(len(latencies) / (seconds / 2)),
            "p50_microseconds": round(quantile(latencies, 0.5) * 1e6, 1),
        }
    return report


def _question() -> bytes:
    """What the waypoint asks about the requests of the load."""
    request = CheckRequest()
    destination = request.attributes.destination.address.socket_address
    destination.address, destination.port_value = mesh.SERVICE_IP, mesh.SERVICE_PORT
    request.attributes.source.address.socket_address.address = "10.0.1.11"
    http = request.attributes.request.http
    http.method, http.path, http.host = "GET", mesh.PATH, "orders.shop"
    http.headers["x-forwarded-client-cert"] = f"By={mesh.WAYPOINT};URI={mesh.CLIENT}"
    for index in range(HEADER_BYTES // 215):
        http.headers[f"x-filler-{index}"] = "v" * 200
    return request.SerializeToString()


def _added(measured: Json, baseline: Json) -> Json:
    """Microseconds beyond no filter."""
    return {
        name: round(measured["microseconds"][name] - baseline["microseconds"][name], 1)
        for name in ("p50", "p99", "p99.9")
    }


async def _gatehouse(bench: _Bench, gatehouse: GatehouseService, rates: tuple[int, ...], baseline: Json) -> Json:
    """Steady at every rate, then disturbed at the middle one."""
    report: Json = {}
    workers = await gatehouse.worker_pids()
    for rate in rates:
        measured = await bench.at(rate, workers)
        report[str(rate)] = {**measured, "added": _added(measured, baseline[str(rate)])}
    middle = rates[len(rates) // 2]

    async def push() -> None:
        number = 0
        while True:
            number += 1
            changed = mesh.policy(0, 0)
            changed["metadata"]["annotations"] = {"bench": str(number)}
            await gatehouse.apply([changed], reason="a push")
            await asyncio.sleep(_PUSH_EVERY_SECONDS)

    async def replace() -> None:
        while True:
            await send_control(gatehouse.state_dir, "replace-workers")

    async def silence() -> None:
        pid = 0
        try:
            while True:  # the supervisor ends one that does not answer, and starts another
                pid = await _authority_pid(gatehouse)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
                await asyncio.sleep(_PUSH_EVERY_SECONDS)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    disturbances = (("during_pushes", push), ("while_workers_are_replaced", replace), ("authority_dead", silence))
    for name, disturb in disturbances:
        measured = await bench.at(middle, [], disturb)
        report[name] = {"rate": middle, **measured, "added": _added(measured, baseline[str(middle)])}
    return report


async def _authority_pid(gatehouse: GatehouseService) -> int:
    status = await send_control(gatehouse.state_dir, "status")
    return next(int(process["pid"]) for process in status["processes"] if process["name"] == "authority")


async def run(*, quick: bool) -> Json:
    """Measure every variant."""
    seconds = 1.0 if quick else 6.0
    rates = (200,) if quick else RATES
    policies = 100 if quick else POLICIES
    with tempfile.TemporaryDirectory(prefix="gatehouse-rates-") as name:
        directory = Path(name)
        authority = TestAuthority(directory / "pki")
        tokens = mesh.Tokens()
        report: Json = {}
        for variant, enforcement in (("no_filter", None), ("native_rbac", NativeRbac(rules=mesh.native_rules()))):
            async with _enforcing(authority, enforcement, directory / variant, seconds, tokens.token) as bench:
                await bench.warm()
                report[variant] = {str(rate): await bench.at(rate, []) for rate in rates}
        for rate in rates:
            native = report["native_rbac"][str(rate)]
            native["added"] = _added(native, report["no_filter"][str(rate)])
        for transport in TRANSPORTS:
            variant = f"gatehouse_{transport}"
            settings = {"check": {"transport": transport}}
            async with GatehouseService(directory / transport, workers=1, settings=settings) as gatehouse:
                await gatehouse.put_inventory(mesh.inventory(policies))
                await gatehouse.apply([*mesh.documents(policies), tokens.document], reason=f"{policies} policies")
                await gatehouse.wait_until_served()
                waits = ExtAuthz(address=gatehouse.address("check"), timeout_seconds=2.0)
                port = int(gatehouse.address("check").rpartition(":")[2])
                direct = await _direct(port, await gatehouse.worker_pids(), seconds)
                async with _enforcing(authority, waits, directory / variant, seconds, tokens.token) as bench:
                    await bench.warm()
                    found = await _gatehouse(bench, gatehouse, rates, report["no_filter"])
                report[variant] = {"direct": direct, **found}
    return report


def main() -> None:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    print(json.dumps(asyncio.run(run(quick=parser.parse_args().quick))))


if __name__ == "__main__":
    main()
