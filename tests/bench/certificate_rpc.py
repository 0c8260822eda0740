"""CreateCertificate, the whole RPC: TLS, token, placement, CSR, lint, two durable ledger entries, signature, answer.

The server is a process of its own with the durable SQLite ledger of the product and its log lines; its CPU is read from
/proc, so the clients' is not in the figures. Every client is a node agent with one connection, as a ztunnel is one.
`measure(...)` works against any address.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvloop
from cryptography.hazmat.primitives.asymmetric import ec

from app.demo.node_agent import NodeAgent, csr_pem
from tests.bench.certificates import run as certificate_costs
from tests.bench.cpu import cpu_seconds

CLIENTS = (1, 32, 256)
_CALLS_AT_A_TIME = 8  # as many as one ztunnel makes
_IDENTITIES = 30


def identity(number: int) -> str:
    """One of the identities that run on the node."""
    return f"spiffe://cluster.local/ns/shop/sa/app-{number % _IDENTITIES}"


async def measure(
    address: str, roots_pem: bytes, token: str, *, clients: int, seconds: float, pids: Sequence[int]
) -> dict[str, Any]:
    """Certificates a second, their latency, and the CPU that the processes `pids` spend on each."""
    agents = [NodeAgent(address, roots_pem, token) for _ in range(max(1, clients // _CALLS_AT_A_TIME))]
    latencies: list[float] = []
    deadline = 0.0

    async def one_after_the_other(number: int) -> None:
        agent, wanted = agents[number % len(agents)], identity(number)
        csr = csr_pem(ec.generate_private_key(ec.SECP256R1()), wanted)
        while time.perf_counter() < deadline:
            started = time.perf_counter()
            await agent.create_certificate(csr, 86_400, impersonate=wanted)
            latencies.append(time.perf_counter() - started)

    for agent in agents:  # connections and caches are warm before anything counts
        await agent.fetch(identity(0))
    started, cpu_before = time.perf_counter(), cpu_seconds(pids)
    deadline = started + seconds
    await asyncio.gather(*(one_after_the_other(number) for number in range(clients)))
    took, cpu = time.perf_counter() - started, cpu_seconds(pids) - cpu_before
    for agent in agents:
        await agent.close()
    latencies.sort()
    return {
        "clients": clients,
        "connections": len(agents),
        "certificates": len(latencies),
        "per_second": round(len(latencies) / took, 1),
        "server_cpu_us": round(cpu / len(latencies) * 1e6, 1),
        "p50_ms": round(latencies[len(latencies) // 2] * 1e3, 2),
        "p99_ms": round(latencies[len(latencies) * 99 // 100] * 1e3, 2),
    }


async def run(*, seconds: float) -> dict[str, Any]:
    """Start the server, measure with each number of clients, and put the unavoidable cost beside it."""
    server = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.bench.certificate_rpc",
        "--serve",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert server.stdout is not None
        told = json.loads(await asyncio.wait_for(server.stdout.readline(), 30))
        results = [
            await measure(
                told["address"],
                told["roots"].encode(),
                told["token"],
                clients=clients,
                seconds=seconds,
                pids=[server.pid],
            )
            for clients in CLIENTS
        ]
    finally:
        assert server.stdin is not None
        server.stdin.close()
        await asyncio.wait_for(server.wait(), 30)
    alone = certificate_costs(times=100)
    return {
        "unit": "server CPU microseconds per certificate: TLS, gRPC, token, lint, signature, two durable entries",
        "ledger": "sqlite, synchronous=FULL, group commit",
        "runs": results,
        "crypto_alone_us": alone["total"],
        "floor_us": alone["floor_total"],
    }


async def _serve() -> None:
    """The service on a durable ledger; ends when standard input does."""
    from app.limits import CertificateLimits, StorageLimits
    from app.storage.database import Database
    from app.telemetry.logging import configure_logging
    from tests.support.ca import ZTUNNEL_POD, ZTUNNEL_UID, make_world, serve, workload

    configure_logging(output="json", level="info", process="authority")
    limits = CertificateLimits(
        node_burst=10_000_000,
        node_rate_per_second=1e6,
        identity_burst=10_000_000,
        identity_rate_per_second=1e6,
        early_renewals=10_000_000,
    )
    pods = [workload(f"app-{number}", f"app-{number}") for number in range(_IDENTITIES)]
    pods.append(workload(ZTUNNEL_POD, "ztunnel", namespace="istio-system", uid=ZTUNNEL_UID))
    with tempfile.TemporaryDirectory() as directory:
        with Database.open(f"sqlite:///{Path(directory) / 'bench.db'}", StorageLimits()) as database:
            world = make_world(limits=limits, workloads=pods, durable=database)
            async with serve(world) as served:
                reader = asyncio.StreamReader()
                loop = asyncio.get_running_loop()
                await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
                told = {
                    "address": served.address,
                    "roots": served.roots_pem.decode(),
                    "token": world.node_token(),
                }
                print(json.dumps(told), flush=True)
                await reader.read()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    if given.serve:
        uvloop.run(_serve())
    else:
        print(json.dumps(uvloop.run(run(seconds=0.3 if given.quick else 5.0)), indent=2))
