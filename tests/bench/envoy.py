"""What a decision costs through the real Envoy: no filter, Envoy's native RBAC, and ext_authz answered by Gatehouse.

Client, waypoint, worker and load generator are processes of their own; the CPU time of each is read from /proc.
`latency` is one connection, `load` is sixteen. Ratios are against no filter in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from app.demo.service import GatehouseService
from app.demo.waypoint import Enforcement, ExtAuthz, HboneClient, NativeRbac, Tunnel, Waypoint, WaypointOptions
from tests.bench import mesh
from tests.bench.cpu import cpu_seconds
from tests.support.pki import TestAuthority

LOAD_CONNECTIONS = 16


async def _load(port: int, connections: int, seconds: float) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.bench.load", str(port), "--path", mesh.PATH),
        *("--connections", str(connections), "--seconds", str(seconds)),
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(seconds + 30):
        output, _ = await process.communicate()
    result: dict[str, Any] = json.loads(output)
    if "200" not in result["statuses"]:
        raise SystemExit(f"the load was not allowed: {result['statuses']}")
    return result


@contextlib.asynccontextmanager
async def _proxies(
    authority: TestAuthority, enforcement: Enforcement, directory: Path
) -> AsyncIterator[tuple[Waypoint, HboneClient]]:
    waypoint_credentials = authority.issue(mesh.WAYPOINT, file_name="waypoint")
    client_credentials = authority.issue(mesh.CLIENT, file_name="client")
    options = WaypointOptions(credentials=waypoint_credentials, enforcement=enforcement)
    async with Waypoint(options, directory) as waypoint:
        tunnel = Tunnel(credentials=client_credentials, proxy=waypoint.address, destination=mesh.DESTINATION)
        async with HboneClient({"client": tunnel}, directory) as client:
            yield waypoint, client


async def _measure(waypoint: Waypoint, client: HboneClient, workers: list[int], seconds: float) -> dict[str, Any]:
    port = client.port("client")
    await _load(port, LOAD_CONNECTIONS, seconds / 4)
    latency = await _load(port, 1, seconds / 2)
    before = cpu_seconds([waypoint.pid]), cpu_seconds(workers)
    load = await _load(port, LOAD_CONNECTIONS, seconds)
    after = cpu_seconds([waypoint.pid]), cpu_seconds(workers)
    each = 1e6 / load["requests"]
    return {
        "latency_microseconds": latency["microseconds"],
        "load": {key: load[key] for key in ("requests_per_second", "microseconds", "statuses")},
        "waypoint_cpu_microseconds": round((after[0] - before[0]) * each, 1),
        "worker_cpu_microseconds": round((after[1] - before[1]) * each, 1),
    }


def _ratios(measured: dict[str, Any], baseline: dict[str, Any]) -> dict[str, float]:
    """How many times the baseline: latency, and the CPU time of waypoint and worker together."""

    def cpu(of: dict[str, Any]) -> float:
        return float(of["waypoint_cpu_microseconds"]) + float(of["worker_cpu_microseconds"])

    return {
        "latency_p50": round(measured["latency_microseconds"]["p50"] / baseline["latency_microseconds"]["p50"], 2),
        "cpu": round(cpu(measured) / max(cpu(baseline), 0.1), 2),
    }


async def run(*, quick: bool) -> dict[str, Any]:
    """Measure every variant."""
    seconds = 0.4 if quick else 4.0
    sizes = (10,) if quick else (10, 1_000, 10_000)
    with tempfile.TemporaryDirectory(prefix="gatehouse-bench-") as name:
        directory = Path(name)
        authority = TestAuthority(directory / "pki")
        async with _proxies(authority, None, directory / "none") as (waypoint, client):
            baseline = await _measure(waypoint, client, [], seconds)
        async with _proxies(authority, NativeRbac(rules=mesh.native_rules()), directory / "rbac") as (waypoint, client):
            native = await _measure(waypoint, client, [], seconds)
        report: dict[str, Any] = {"no_filter": baseline, "native_rbac": {**native, "times": _ratios(native, baseline)}}
        async with GatehouseService(directory / "gatehouse", workers=1) as gatehouse:
            enforcement = ExtAuthz(address=gatehouse.address("check"), timeout_seconds=2.0)
            async with _proxies(authority, enforcement, directory / "ext_authz") as (waypoint, client):
                for size in sizes:
                    await gatehouse.put_inventory(mesh.inventory(size))
                    await gatehouse.apply(mesh.documents(size), reason=f"{size} policies")
                    await gatehouse.wait_until_served()
                    measured = await _measure(waypoint, client, await gatehouse.worker_pids(), seconds)
                    report[f"ext_authz_{size}_policies"] = {**measured, "times": _ratios(measured, baseline)}
    return report


def main() -> None:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    print(json.dumps(asyncio.run(run(quick=parser.parse_args().quick))))


if __name__ == "__main__":
    main()
