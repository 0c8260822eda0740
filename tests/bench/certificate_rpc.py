"""CreateCertificate, the whole product: TLS, gRPC, token, placement, CSR, lint, signer process, durable ledger, answer.

`gatehouse serve --role authority` runs as its users run it, on SQLite and on PostgreSQL; the clients are a process of
their own. CPU time of the authority process and of its signer is read from /proc. Every client is one call at a time
of a node proxy, eight of them on a connection, as a ztunnel has one. Capacity is measured with clients that ask without
pause, latency at half of it with requests that come on a schedule (`tests.bench.certificate_clients`). The floor is the
CPU of what nobody can avoid, verifying the CSR and making one signature, measured in the same run; only the ratio to it
can be compared between machines.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import uvloop

from tests.bench.certificate_clients import CALLS_PER_CONNECTION
from tests.bench.certificates import run as certificate_costs
from tests.bench.cpu import cpu_seconds, descendants
from tests.support.gatehouse import Gatehouse, merged
from tests.support.nodes import Nodes
from tests.support.postgres import shared_server

CLIENTS = (1, 32, 256)
IDENTITIES = 30  # a node
_SIGNER = "app.keys.signer_process"


class Load:
    """What clients ask of one running authority, and what that costs its processes."""

    def __init__(self, address: str, roots: bytes, nodes: Nodes, pids: dict[str, int]) -> None:
        self._job = {
            "address": address,
            "roots": roots.decode(),
            "nodes": [
                {"token": nodes.token(number), "identities": nodes.identities(number)} for number in range(nodes.count)
            ],
        }
        self._pids = pids

    async def run(self, *, clients: int, seconds: float, rate: float | None = None) -> dict[str, Any]:
        """One run of the clients; CPU is counted from their first request to their last answer."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.bench.certificate_clients"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        job = {**self._job, "clients": clients, "seconds": seconds, "rate": rate}
        process.stdin.write(json.dumps(job).encode())
        process.stdin.close()
        cpu: list[dict[str, float]] = []
        for milestone in (b"ready\n", b"done\n"):
            said = await process.stdout.readline()
            assert said == milestone, "the clients failed; see above"
            cpu.append({name: cpu_seconds([pid]) for name, pid in self._pids.items()})
        told: dict[str, Any] = json.loads(await process.stdout.read())
        assert await process.wait() == 0
        certificates = told["codes"].get("OK", 0)
        spent = {name: (cpu[1][name] - cpu[0][name]) / max(1, certificates) * 1e6 for name in self._pids}
        return {**told, "certificates": certificates, "cpu_us": spent}


async def measure(load: Load, *, clients: int, seconds: float, floor_us: float) -> dict[str, Any]:
    """Capacity, cost, and latency at half of the capacity."""
    full = await load.run(clients=clients, seconds=seconds)
    capacity = full["certificates"] / full["seconds"]
    half = await load.run(clients=clients, seconds=seconds, rate=max(1.0, capacity / 2))
    total_us = sum(full["cpu_us"].values())
    return {
        "clients": clients,
        "connections": full["connections"],
        "certificates": full["certificates"],
        "per_second": round(capacity, 1),
        "authority_cpu_us": round(full["cpu_us"]["authority"], 1),
        "signer_cpu_us": round(full["cpu_us"]["signer"], 1),
        "times_the_floor": round(total_us / floor_us, 2),
        "per_second_and_core": round(1e6 / total_us, 1) if total_us else None,
        "p50_ms": full["p50_ms"],
        "p99_ms": full["p99_ms"],
        "half_load_per_second": round(half["certificates"] / half["seconds"], 1),
        "half_load_p50_ms": half["p50_ms"],
        "half_load_p99_ms": half["p99_ms"],
        "answers": _added(full["codes"], half["codes"]),
    }


def _added(*counts: dict[str, int]) -> dict[str, int]:
    return {
        code: sum(count.get(code, 0) for count in counts) for code in sorted({key for one in counts for key in one})
    }


async def database(folder: Path, clients: Iterable[int], *, seconds: float, floor_us: float, **settings: Any) -> Any:
    """All runs against one authority."""
    nodes = Nodes(folder, count=-(-max(CLIENTS) // CALLS_PER_CONNECTION), identities=IDENTITIES)
    quiet = {"role": "authority", "logging": {"level": "info"}}
    async with Gatehouse(folder, **merged(merged(quiet, nodes.settings), settings)) as gatehouse:
        roots = await nodes.introduce(gatehouse)
        authority = int((await gatehouse.processes())["authority"]["pid"])
        (signer,) = (pid for pid, command in descendants(authority).items() if _SIGNER in command)
        load = Load(gatehouse.addresses["ca"], roots, nodes, {"authority": authority, "signer": signer})
        await load.run(clients=max(clients), seconds=min(1.0, seconds))  # caches are warm before anything counts
        return [await measure(load, clients=count, seconds=seconds, floor_us=floor_us) for count in clients]


async def run(*, seconds: float, databases: Iterable[str], clients: Iterable[int]) -> dict[str, Any]:
    """Measure each database with each number of clients; the floor and the steps stand beside."""
    costs = certificate_costs(times=100)
    clients = tuple(clients)
    report: dict[str, Any] = {
        "unit": "CPU microseconds per certificate; the aim is 1,500 certificates per second and core (667 us)",
        "floor_us": costs["floor_total"],
        "steps_us": costs["steps"],
    }
    folder = Path(tempfile.mkdtemp(prefix="gatehouse-bench-"))
    try:
        for name in databases:
            settings: dict[str, Any] = {}
            if name == "postgresql":
                server = shared_server()
                if server is None:
                    report[name] = {"skipped": "there is no PostgreSQL on this machine"}
                    continue
                settings = {"database": {"url": server.create_database()}}
            report[name] = await database(
                folder / name, clients, seconds=seconds, floor_us=costs["floor_total"], **settings
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return report


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--databases", nargs="+", choices=("sqlite", "postgresql"), default=("sqlite", "postgresql"))
    parser.add_argument("--clients", nargs="+", type=int, default=CLIENTS)
    given = parser.parse_args()
    seconds = 0.3 if given.quick else given.seconds
    print(json.dumps(uvloop.run(run(seconds=seconds, databases=given.databases, clients=given.clients)), indent=2))
