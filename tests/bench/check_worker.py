"""A decision worker for the benchmarks: no authority, no link, commands on standard input.

Usage: python -m tests.bench.check_worker --policies N [--port P]
Prints `{"port": P}` when it serves, then one JSON line for every command:
`count` (Checks answered so far), `prepare one|all` (publish a change of one policy, or of every policy),
`swap` (load what was prepared, while Checks go on).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import Any

import uvloop

from app.decision.attributes import Transport
from app.limits import CheckLimits, Limits
from app.rpc.check import CheckListener, CheckServicer, check_server
from tests.support.decisions import LOCAL_WAYPOINT, READERS, SERVICES, Worker
from tests.support.snapshots import mesh, parts_of, policy

ATTACHED = 20  # policies that concern the target, out of however many there are


def policies(count: int, generation: int = 0) -> list[dict[str, Any]]:
    """A set of policies: twenty that attach to the service that is asked for, the others elsewhere."""
    documents = [READERS]
    for index in range(1, count):
        attached = index < ATTACHED
        documents.append(
            policy(
                f"p{index}",
                "shop" if attached else f"ns{index % 500}",
                targetRefs=[{"kind": "Service", "group": "", "name": "orders" if attached else f"service-{index}"}],
                action="DENY" if index % 4 == 0 else "ALLOW",
                rules=[
                    {
                        "from": [{"source": {"principals": [f"cluster.local/ns/ns{index}/sa/client-{generation}"]}}],
                        "to": [{"operation": {"methods": ["GET", "POST"], "paths": [f"/service-{index}/*"]}}],
                    }
                ],
            )
        )
    return documents


class _Bench:
    """The worker and what the commands do to it."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._generation = 0
        self.worker = Worker(CheckLimits())

    async def start(self) -> None:
        self.worker.source.put(LOCAL_WAYPOINT, mesh(trustDomain="cluster.local"), *policies(self._count))
        self.worker.source.put_services(SERVICES)
        await self.worker.reload()

    async def run(self, command: str) -> dict[str, Any]:
        match command.split():
            case ["count"]:
                return {"checks": self.worker.service.counters.total}
            case ["prepare", which]:
                self._generation += 1
                changed = policies(self._count, self._generation)
                self.worker.source.put(*(changed if which == "all" else [changed[-1]]))
                await self.worker.publisher.refresh()
                return {}
            case ["swap"]:
                publication = await self.worker.publisher.current()
                missing = {ref.sha256 for ref in self.worker.loader.missing(publication.manifest)}
                parts = [part for part in parts_of(publication) if part.ref.sha256 in missing]
                loader = self.worker.loader
                self.worker.holder.swap(await loader.load(publication.manifest, publication.etag, parts))
                await loader.release()
                return {"seconds": round(loader.last_load_seconds, 4), "compiled": loader.last_compiled}
        raise ValueError(command)


async def _main(count: int, port: int) -> None:
    bench = _Bench(count)
    await bench.start()
    listener = CheckListener(name="local", address=f"127.0.0.1:{port}", transport=Transport.LOCAL)
    servicer = CheckServicer(bench.worker.service, limits=CheckLimits())
    server, bound = check_server(servicer, listener, limits=Limits().check_grpc, reuse_port=True)
    await server.start()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print(json.dumps({"port": bound, "load_seconds": round(bench.worker.loader.last_load_seconds, 3)}), flush=True)
    while line := await reader.readline():
        print(json.dumps(await bench.run(line.decode().strip())), flush=True)
    await server.stop(0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--policies", type=int, default=10)
    parser.add_argument("--port", type=int, default=0)
    given = parser.parse_args()
    import structlog

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    uvloop.run(_main(given.policies, given.port))
