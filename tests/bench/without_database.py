"""W3: half an hour without PostgreSQL in `ledger.mode: available`, scaled: refused and missing certificates, both 0."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import uvloop

from tests.bench.mesh_at_work import allow_many_connections, authority, metrics
from tests.support.gatehouse import Gatehouse
from tests.support.issuing_load import Received, read_record
from tests.support.nodes import Nodes
from tests.support.postgres import another_server, shared_server
from tests.support.ztunnels import AgentSource, Fleet, Pace

TTL_SECONDS = 600  # so that every identity is renewed some five times in half an hour


async def without_database(
    folder: Path, *, ztunnels: int, identities: int, away_seconds: float, pace: float
) -> dict[str, Any]:
    """The mesh renews while PostgreSQL is stopped; `away_seconds` are simulated, `pace` of them in a real one."""
    if shared_server() is None:
        return {"skipped": "there is no PostgreSQL on this machine"}
    nodes = Nodes(folder, count=ztunnels, identities=identities)
    with ExitStack() as stack:
        server = stack.enter_context(another_server())
        url = server.create_database()
        settings = {"database": {"url": url}, "ledger": {"mode": "available", "max_away_seconds": 1_800.0}}
        async with (
            authority(folder, nodes, **settings) as (gatehouse, roots, _),
            Fleet(sources(gatehouse, nodes, roots), pace=Pace(pace)) as fleet,
        ):
            await fleet.each(lambda ztunnel, number: ztunnel.warm_up(nodes.identities(number)))
            before = len(fleet.tally.serials)
            server.stop(crash=True)
            await fleet.pace.sleep(away_seconds)
            while_away = len(fleet.tally.serials) - before
            waiting = (await metrics(gatehouse))["gatehouse_journal_entries"]
            server.start()
            started = time.perf_counter()
            while (await metrics(gatehouse))["gatehouse_journal_entries"]:
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


def sources(gatehouse: Gatehouse, nodes: Nodes, roots: bytes) -> list[AgentSource]:
    """A connection for each node."""
    address = gatehouse.addresses["ca"]
    return [
        AgentSource(lambda number=number: nodes.agent(address, roots, number), ttl_seconds=TTL_SECONDS)  # type: ignore[misc]
        for number in range(nodes.count)
    ]


async def run(*, quick: bool) -> dict[str, Any]:
    """On a PostgreSQL of its own."""
    allow_many_connections()
    folder = Path(tempfile.mkdtemp(prefix="gatehouse-bench-"))
    try:
        return await without_database(
            folder,
            ztunnels=5 if quick else 30,
            identities=4 if quick else 10,
            away_seconds=1_800.0,
            pace=600.0 if quick else 60.0,
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    print(json.dumps(uvloop.run(run(quick=parser.parse_args().quick)), indent=2))
