"""What a mesh asks of the authority at its worst hours, by simulated ztunnels over TLS and gRPC.

W1: 1,000 ztunnels of 30 identities each restart at once (serial warm-up): seconds until the last identity is served.
W2: meanwhile, how long a connection waits whose identity nobody has asked for before (p99).
W3: half an hour without PostgreSQL in `ledger.mode: available`, scaled: refused and missing certificates, both 0.

The ztunnels share the machine with the authority: their keys, CSRs and TLS cost about as much CPU as its answers do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import uvloop

from tests.bench.cpu import cpu_seconds
from tests.support.gatehouse import Gatehouse, merged
from tests.support.issuing_load import Received, read_record
from tests.support.nodes import Nodes
from tests.support.postgres import another_server, shared_server
from tests.support.ztunnels import AgentSource, Fleet, Pace, Priority, Ztunnel

PROBES_PER_SECOND = 10
PROBE_NODES = 20
TTL_SECONDS = 600  # W3: so that every identity is renewed some five times in half an hour


@asynccontextmanager
async def authority(folder: Path, nodes: Nodes, **settings: Any) -> AsyncIterator[tuple[Gatehouse, bytes, int]]:
    """A whole `gatehouse serve --role authority`; its roots and the process that issues."""
    quiet = {"role": "authority", "logging": {"level": "info"}}
    async with Gatehouse(folder, **merged(merged(quiet, nodes.settings), settings)) as gatehouse:
        roots = await nodes.introduce(gatehouse)
        yield gatehouse, roots, int((await gatehouse.processes())["authority"]["pid"])


def sources(gatehouse: Gatehouse, nodes: Nodes, roots: bytes, numbers: range, ttl: int = 86_400) -> list[AgentSource]:
    """A connection for each node."""
    address = gatehouse.addresses["ca"]
    return [
        AgentSource(lambda number=number: nodes.agent(address, roots, number), ttl_seconds=ttl)  # type: ignore[misc]
        for number in numbers
    ]


async def restart_storm(folder: Path, *, ztunnels: int, identities: int) -> dict[str, Any]:
    """W1 and W2, on SQLite."""
    nodes = Nodes(folder, count=ztunnels + PROBE_NODES, identities=identities)
    async with authority(folder, nodes) as (gatehouse, roots, pid):
        storm = Fleet(sources(gatehouse, nodes, roots, range(ztunnels)))
        probing = Fleet(sources(gatehouse, nodes, roots, range(ztunnels, ztunnels + PROBE_NODES)))
        for number in range(ztunnels + PROBE_NODES):  # a real token is there before its ztunnel starts
            nodes.token(number)
        waits: list[float] = []

        async def never_seen() -> None:
            """Connections that arrive for identities that nobody has asked for."""
            for count in range(PROBE_NODES * identities):
                ztunnel = probing.ztunnels[count % PROBE_NODES]
                identity = nodes.identities(ztunnels + count % PROBE_NODES)[count // PROBE_NODES]
                started = time.perf_counter()
                assert await ztunnel.fetch(identity, Priority.REAL_TIME) is not None
                waits.append(time.perf_counter() - started)
                await asyncio.sleep(1 / PROBES_PER_SECOND)

        async def warm_up(ztunnel: Ztunnel, number: int) -> None:
            await ztunnel.warm_up(nodes.identities(number))

        async with storm, probing:
            started, cpu = time.perf_counter(), cpu_seconds([pid])
            probes = asyncio.create_task(never_seen())
            await storm.each(warm_up)
            took, cpu = time.perf_counter() - started, cpu_seconds([pid]) - cpu
            probes.cancel()
            await asyncio.gather(probes, return_exceptions=True)
        tally = storm.tally
        return {
            "ztunnels": ztunnels,
            "identities": ztunnels * identities,
            "w1_seconds_until_the_last_identity": round(took, 2),
            "certificates_per_second": round(len(tally.accepted) / took, 1),
            "not_served": ztunnels * identities - sum(len(ztunnel.valid()) for ztunnel in storm.ztunnels),
            "answers": dict(tally.codes),
            "p50_ms": round(tally.percentile(tally.accepted, 0.5) * 1e3, 1),
            "p99_ms": round(tally.percentile(tally.accepted, 0.99) * 1e3, 1),
            "authority_cpu_us_per_certificate": round(cpu / max(1, len(tally.accepted) + len(waits)) * 1e6, 1),
            "w2_never_seen_identities": len(waits),
            "w2_p50_ms": round(tally.percentile(waits, 0.5) * 1e3, 1),
            "w2_p99_ms": round(tally.percentile(waits, 0.99) * 1e3, 1),
        }


async def without_database(
    folder: Path, *, ztunnels: int, identities: int, away_seconds: float, pace: float
) -> dict[str, Any]:
    """W3: the mesh renews while PostgreSQL is stopped; `away_seconds` are simulated, `pace` of them in a real one."""
    if shared_server() is None:
        return {"skipped": "there is no PostgreSQL on this machine"}
    nodes = Nodes(folder, count=ztunnels, identities=identities)
    with ExitStack() as stack:
        server = stack.enter_context(another_server())
        url = server.create_database()
        settings = {"database": {"url": url}, "ledger": {"mode": "available", "max_away_seconds": 1_800.0}}
        async with (
            authority(folder, nodes, **settings) as (gatehouse, roots, _),
            Fleet(sources(gatehouse, nodes, roots, range(ztunnels), TTL_SECONDS), pace=Pace(pace)) as fleet,
        ):
            await fleet.each(lambda ztunnel, number: ztunnel.warm_up(nodes.identities(number)))
            before = len(fleet.tally.serials)
            server.stop(crash=True)
            await fleet.pace.sleep(away_seconds)
            while_away = len(fleet.tally.serials) - before
            waiting = await metric(gatehouse, "gatehouse_journal_entries")
            server.start()
            started = time.perf_counter()
            while await metric(gatehouse, "gatehouse_journal_entries"):
                await asyncio.sleep(0.1)
            drained = time.perf_counter() - started
        received = Received(serials=[f"{serial:x}" for serial in fleet.tally.serials])
        missing = set(received.serials) - set(read_record(url).issued)
    return {
        "ztunnels": ztunnels,
        "identities": ztunnels * identities,
        "simulated_seconds_away": away_seconds,
        "pace": pace,
        "certificates_while_away": while_away,
        "refused": sum(count for code, count in fleet.tally.codes.items() if code != "OK"),
        "missing": len(missing),
        "entries_in_the_journal": int(waiting),
        "seconds_to_drain": round(drained, 2),
        "p99_ms": round(fleet.tally.percentile(fleet.tally.accepted, 0.99) * 1e3, 1),
    }


async def metric(gatehouse: Gatehouse, name: str) -> float:
    """One number of /metrics."""
    lines = (await gatehouse.get("/metrics")).text.splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + " "))


async def run(*, quick: bool) -> dict[str, Any]:
    """All three."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    folder = Path(tempfile.mkdtemp(prefix="gatehouse-bench-"))
    try:
        return {
            "storm": await restart_storm(
                folder / "storm", ztunnels=20 if quick else 1_000, identities=5 if quick else 30
            ),
            "without_database": await without_database(
                folder / "away",
                ztunnels=5 if quick else 30,
                identities=4 if quick else 10,
                away_seconds=1_800.0,
                pace=600.0 if quick else 60.0,
            ),
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    print(json.dumps(uvloop.run(run(quick=parser.parse_args().quick)), indent=2))
