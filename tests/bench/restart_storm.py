"""A mesh whose ztunnels all restart at once, simulated over TLS and gRPC on SQLite.

W1: 1,000 ztunnels of 30 identities each ask again for everything, one identity after the other as a ztunnel warms up:
seconds until the last one is served. Their certificates are on record, and the authority has been restarted, too.
W2: meanwhile connections arrive on those nodes for identities that nobody has a certificate for: how long each waits.
They come on a schedule that does not wait for answers.

`--first` is the same on the day when nobody has any certificate yet. `--limit admission.max_at_work=32` tries a limit.

The ztunnels share the machine with the authority. Keys and CSRs are made before the clock starts; what TLS, gRPC and
reading the answers cost them is said apart from what it costs the authority.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import shutil
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvloop
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from app.demo.node_agent import NodeAgent, UnusableResponse, WorkloadCertificate, csr_pem
from app.ledger.entry import EntryKind, LedgerEntry
from app.limits import StorageLimits
from app.storage.database import Database
from app.storage.transaction import SqlTransaction
from tests.bench.cpu import cpu_seconds, descendants
from tests.bench.mesh_at_work import allow_many_connections, authority, metrics
from tests.support.gatehouse import Gatehouse, merged
from tests.support.nodes import Nodes
from tests.support.ztunnels import AgentSource, Fleet, Priority, Tally, Ztunnel

PROBES_PER_SECOND = 10
PROBES = 1_000  # at most; they end with the storm
DAY = 86_400
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class PreparedAgent(NodeAgent):
    """A node agent whose CSRs are made already; it looks at the leaf's name and nothing else."""

    def __init__(self, address: str, roots_pem: bytes, token: str, csrs: dict[str, str]) -> None:
        super().__init__(address, roots_pem, token)
        self._csrs = csrs

    async def fetch(
        self, identity: str, ttl_seconds: int = DAY, *, timeout_seconds: float | None = None
    ) -> WorkloadCertificate:
        chain = await self.create_certificate(
            self._csrs[identity], ttl_seconds, impersonate=identity, timeout_seconds=timeout_seconds
        )
        leaf = x509.load_pem_x509_certificate(chain[0].encode())
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        if names.get_values_for_type(x509.UniformResourceIdentifier) != [identity]:
            raise UnusableResponse(f"SanError: wanted {identity}")
        return WorkloadCertificate(
            identity=identity, key_pem=b"", leaf=leaf, intermediates=(), roots=(), chain=tuple(chain)
        )


@dataclass(frozen=True, slots=True)
class Probe:
    """A connection: when after the beginning it came, how many seconds it waited, and whether for something."""

    came: float
    waited: float
    served: bool


def make_csrs(identities: list[str]) -> dict[str, str]:
    """A CSR for each identity, with a key of its own that nobody needs afterwards."""
    return {identity: csr_pem(ec.generate_private_key(ec.SECP256R1()), identity) for identity in identities}


async def all_csrs(nodes: Nodes) -> dict[str, str]:
    """The CSRs of all nodes, made by all processors."""
    loop = asyncio.get_running_loop()
    with ProcessPoolExecutor() as pool:
        made = [loop.run_in_executor(pool, make_csrs, nodes.identities(number)) for number in range(nodes.count)]
        return {identity: csr for some in await asyncio.gather(*made) for identity, csr in some.items()}


async def remember(folder: Path, nodes: Nodes, *, identities: int) -> None:
    """Put a certificate of every warmed-up identity on record, by the ledger's own code, like the one that is there."""
    now = datetime.now(UTC)
    with Database.open(f"sqlite:///{folder / 'state' / 'gatehouse.db'}", StorageLimits()) as database:
        entry = LedgerEntry.from_bytes(await database.read(_an_issued_entry))

        def of(node: int, identity: str) -> LedgerEntry:
            mark = hashlib.sha256(identity.encode()).hexdigest()
            names = {"serial": mark[:40], "certificateSha256": mark, "keySha256": mark, "node": f"node-{node}"}
            actor, detail = f"node:istio-system/ztunnel@node-{node}", {**entry.detail, **names}
            return replace(entry, time=now, actor=actor, subject=identity, request_id=mark[:16], detail=detail)

        for node in range(nodes.count - 1):
            names = nodes.identities(node)[:identities]
            await asyncio.gather(*(database.append(of(node, identity)) for identity in names))


def _an_issued_entry(transaction: SqlTransaction) -> bytes:
    query = "SELECT data FROM ledger WHERE kind = ? AND subject LIKE '%/sa/app-%'"
    row = transaction.connection.exec_driver_sql(query, (EntryKind.CERTIFICATE_ISSUED.value,)).one()
    return bytes(row.data)


async def storm(folder: Path, *, ztunnels: int, identities: int, first: bool, limits: dict[str, Any]) -> dict[str, Any]:
    """W1 and W2."""
    nodes = Nodes(folder, count=ztunnels + 1, identities=identities + 1)
    csrs = await all_csrs(nodes)
    for number in range(ztunnels):  # a real token is there before its ztunnel starts
        nodes.token(number)
    if not first:
        async with (
            authority(folder, nodes) as (gatehouse, roots, _),
            nodes.agent(gatehouse.addresses["ca"], roots, ztunnels) as agent,  # the node that is not in the storm
        ):
            await agent.fetch(nodes.identities(ztunnels)[0])
        await remember(folder, nodes, identities=identities)
    async with authority(folder, nodes, limits=limits) as (gatehouse, roots, pid):
        while (await metrics(gatehouse))["gatehouse_ledger_unnumbered_entries"]:
            await asyncio.sleep(0.2)
        address = gatehouse.addresses["ca"]

        def connect(number: int) -> PreparedAgent:
            return PreparedAgent(address, roots, nodes.token(number), csrs)

        fleet = Fleet([AgentSource(lambda number=number: connect(number)) for number in range(ztunnels)])  # type: ignore[misc]
        signer = next(child for child, command in descendants(pid).items() if "signer" in command)
        async with fleet:
            usage = Usage(authority=pid, signer=signer)
            warming = asyncio.create_task(
                fleet.each(lambda ztunnel, number: ztunnel.warm_up(nodes.identities(number)[:identities]))
            )
            warming.add_done_callback(lambda _: usage.stop())
            probes = await probe(fleet.ztunnels, nodes, while_runs=warming)
        served = sum(len(ztunnel.valid()) for ztunnel in fleet.ztunnels)
        return {
            "ztunnels": ztunnels,
            "identities": ztunnels * identities,
            "not_served": ztunnels * identities + len(probes) - served,
            **figures(fleet.tally, probes, usage.spent()),
            "authority_says": await said(gatehouse),
        }


class Usage:
    """Where the machine's time goes, from now on."""

    def __init__(self, **processes: int) -> None:
        self._processes = processes
        self._before = self._read()
        self._ended: dict[str, float] | None = None

    def _read(self) -> dict[str, float]:
        busy = [int(ticks) for ticks in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
        return {
            "seconds": time.perf_counter(),
            **{name: cpu_seconds([pid]) for name, pid in self._processes.items()},
            "clients": time.process_time(),
            "machine": (sum(busy[:3]) + sum(busy[5:8])) / _TICKS_PER_SECOND,
        }

    def stop(self) -> None:
        """No further."""
        self._ended = self._read()

    def spent(self) -> dict[str, float]:
        """CPU seconds by process, and of the machine; `seconds` is the wall's."""
        assert self._ended is not None
        return {name: value - self._before[name] for name, value in self._ended.items()}


async def probe(ztunnels: list[Ztunnel], nodes: Nodes, *, while_runs: asyncio.Task[None]) -> list[Probe]:
    """Connections for identities without any certificate, on every node once."""

    async def wait_for(ztunnel: Ztunnel, identity: str) -> Probe:
        arrived = time.perf_counter()
        found = await ztunnel.fetch(identity, Priority.REAL_TIME)
        return Probe(arrived - started, time.perf_counter() - arrived, found is not None)

    started, calls = time.perf_counter(), []
    for count in range(min(PROBES, len(ztunnels))):
        pause = started + count / PROBES_PER_SECOND - time.perf_counter()
        await asyncio.wait([while_runs], timeout=max(0.0, pause))
        if while_runs.done():
            break
        number = count * 37 % len(ztunnels)  # 37 divides neither 20 nor 1,000: another node each time
        calls.append(asyncio.create_task(wait_for(ztunnels[number], nodes.identities(number)[-1])))
    await while_runs
    return list(await asyncio.gather(*calls))


def figures(tally: Tally, probes: list[Probe], spent: dict[str, float]) -> dict[str, Any]:
    """What the ztunnels saw, and what it cost."""
    certificates, seen = len(tally.accepted), [probe.waited for probe in probes if probe.served]
    slowest = sorted(probes, key=lambda probe: probe.waited)[-5:]
    return {
        "w1_seconds_until_the_last_identity": round(spent["seconds"], 2),
        "certificates_per_second": round(certificates / spent["seconds"], 1),
        "answers": dict(tally.codes),
        "p50_ms": round(tally.percentile(tally.accepted, 0.5) * 1e3, 1),
        "p99_ms": round(tally.percentile(tally.accepted, 0.99) * 1e3, 1),
        "w2_never_seen_identities": len(probes),
        "w2_in_vain": len(probes) - len(seen),
        "w2_p50_ms": round(tally.percentile(seen, 0.5) * 1e3, 1),
        "w2_p99_ms": round(tally.percentile(seen, 0.99) * 1e3, 1),
        "w2_slowest_ms_by_second": {str(round(probe.came, 1)): round(probe.waited * 1e3, 1) for probe in slowest},
        "cpu_seconds": {name: round(value, 1) for name, value in spent.items() if name != "seconds"},
        "cpu_us_per_certificate": {
            name: round(value / certificates * 1e6, 1) for name, value in spent.items() if name != "seconds"
        },
    }


async def said(gatehouse: Gatehouse) -> dict[str, Any]:
    """How long requests waited for their turn by the authority's own metrics, and what an answer took in all."""
    numbers = await metrics(gatehouse)

    def mean(name: str, labels: str = "") -> dict[str, float]:
        count = numbers.get(f"{name}_count{labels}", 0.0)
        total = numbers.get(f"{name}_sum{labels}", 0.0)
        return {"count": count, "mean_ms": round(total / count * 1e3, 1) if count else 0.0}

    urgencies = ("awaited", "missing", "ending", "lasting")
    return {
        "answers": mean("gatehouse_certificate_seconds"),
        "waited": {name: mean("gatehouse_admission_seconds", f'{{urgency="{name}"}}') for name in urgencies},
        "shed": {name: numbers.get(f'gatehouse_admission_shed_total{{urgency="{name}"}}', 0.0) for name in urgencies},
    }


async def run(*, ztunnels: int, identities: int, first: bool, limits: dict[str, Any]) -> dict[str, Any]:
    """In a folder that goes away."""
    allow_many_connections()
    folder = Path(tempfile.mkdtemp(prefix="gatehouse-bench-"))
    try:
        return await storm(folder, ztunnels=ztunnels, identities=identities, first=first, limits=limits)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def as_limits(assignments: list[str]) -> dict[str, Any]:
    """`admission.max_at_work=32` as settings have it."""
    limits: dict[str, Any] = {}
    for assignment in assignments:
        path, _, value = assignment.partition("=")
        section, _, name = path.partition(".")
        limits = merged(limits, {section: {name: float(value) if "." in value else int(value)}})
    return limits


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--first", action="store_true")
    parser.add_argument("--ztunnels", type=int, default=1_000)
    parser.add_argument("--identities", type=int, default=30)
    parser.add_argument("--limit", action="append", default=[], help="admission.max_at_work=32")
    given = parser.parse_args()
    ztunnels, identities = (20, 5) if given.quick else (given.ztunnels, given.identities)
    result = run(ztunnels=ztunnels, identities=identities, first=given.first, limits=as_limits(given.limit))
    print(json.dumps(uvloop.run(result), indent=2))
