"""R10a: every certificate of the mesh is due when the authority comes back from an outage.

CI runs a small mesh in quick time; `make torture` the whole of it.
"""

from __future__ import annotations

import asyncio
import re
import resource
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_crashes import authority, pid_of_authority
from tests.support.gatehouse import Gatehouse, merged
from tests.support.nodes import Nodes
from tests.support.ztunnels import AgentSource, Fleet, Pace, Priority, Ztunnel

pytestmark = pytest.mark.e2e

RECOVERY_SECONDS = 300.0  # simulated: three minutes of back-off, and the drain
IDENTITIES = 5


@dataclass(frozen=True)
class Herd:
    """How large and how fast, and how far from an idle machine its figures may be."""

    ztunnels: int
    pace: float
    outage_seconds: float  # simulated
    accepted_p99_seconds: float
    refused_seconds: float
    refused_at_first_seconds: float  # in the warm-up: a node's only request may wait until its time is up
    limits: dict[str, Any] = field(default_factory=dict)
    is_shed: bool = False  # whether it is too much for those limits


# So few jobs at once that even a small mesh is too much: refusals are to be seen, and everybody is served all the same.
NARROW = {"certificate": {"max_in_flight": 8}}
IN_CI = Herd(
    ztunnels=40,
    pace=20.0,
    outage_seconds=150.0,
    accepted_p99_seconds=10.0,
    refused_seconds=2.0,
    refused_at_first_seconds=2.0,
    limits=NARROW,
    is_shed=True,
)
IN_FULL = Herd(
    ztunnels=2_000,
    pace=2.0,
    outage_seconds=600.0,
    accepted_p99_seconds=2.0,
    refused_seconds=0.05,
    refused_at_first_seconds=15.0,
)


def memory(pid: int, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


async def stop(gatehouse: Gatehouse) -> None:
    """End it, and have its ports again at the next start."""
    assert gatehouse.process is not None
    child = await pid_of_authority(gatehouse)
    ports = {name: {"port": int(address.rpartition(":")[2])} for name, address in gatehouse.addresses.items()}
    gatehouse.settings = merged(gatehouse.settings, {"listen": ports})
    gatehouse.process.send_signal(signal.SIGKILL)
    await gatehouse.process.wait()
    async with asyncio.timeout(20):
        while Path(f"/proc/{child}").exists():
            await asyncio.sleep(0.05)


async def unready_while(gatehouse: Gatehouse, stopped: asyncio.Event) -> int:
    """How often /readyz was not 200."""
    count = 0
    while not stopped.is_set():
        count += (await gatehouse.get("/readyz")).status_code != 200
        await asyncio.sleep(0.2)
    return count


async def recover(tmp_path: Path, herd: Herd) -> None:
    """Warm up, take the authority away with everything due, bring it back, and see."""
    nodes = Nodes(tmp_path, count=herd.ztunnels, identities=IDENTITIES)
    url = f"sqlite:///{tmp_path / 'state' / 'gatehouse.db'}"
    async with authority(tmp_path, nodes, url, limits=herd.limits) as gatehouse:
        roots = await nodes.introduce(gatehouse)
        address = gatehouse.addresses["ca"]
        sources = [
            AgentSource(lambda number=number: nodes.agent(address, roots, number)) for number in range(herd.ztunnels)
        ]  # type: ignore[misc]
        everybody = herd.ztunnels * IDENTITIES
        async with Fleet(sources, pace=Pace(herd.pace)) as fleet:

            async def warm_up(ztunnel: Ztunnel, number: int) -> None:
                await ztunnel.warm_up(nodes.identities(number))

            async def renew_all(ztunnel: Ztunnel, number: int) -> None:
                for identity in nodes.identities(number):
                    ztunnel.want(identity, Priority.BACKGROUND)

            def renewed() -> int:
                return sum(len(ztunnel.fetched_since(outage)) for ztunnel in fleet.ztunnels)

            def valid() -> int:
                return sum(len(ztunnel.valid()) for ztunnel in fleet.ztunnels)

            await fleet.each(warm_up)
            await fleet.until(lambda: valid() == everybody, within=RECOVERY_SECONDS)
            steady = memory(await pid_of_authority(gatehouse), "VmRSS")
            await stop(gatehouse)
            outage = fleet.pace.now()
            await fleet.each(renew_all)
            await fleet.pace.sleep(herd.outage_seconds)
            assert everybody == valid()  # nobody lost anything
            refused_at_first = fleet.tally.refused.copy()
            fleet.tally.accepted.clear()
            fleet.tally.refused.clear()
            await gatehouse.start()
            await gatehouse.wait_until_ready()
            stopped = asyncio.Event()
            unready = asyncio.create_task(unready_while(gatehouse, stopped))
            await fleet.until(lambda: renewed() == everybody, within=RECOVERY_SECONDS)
            stopped.set()
            peak = memory(await pid_of_authority(gatehouse), "VmHWM")
            assert 0 == await unready
            assert fleet.tally.most_in_flight <= 8
            assert bool(refused_at_first or fleet.tally.refused) or not herd.is_shed
            assert {"OK", "UNAVAILABLE", "RESOURCE_EXHAUSTED"} >= set(fleet.tally.codes), fleet.tally.unanswered
            assert fleet.tally.percentile(fleet.tally.accepted, 0.99) < herd.accepted_p99_seconds
            assert fleet.tally.percentile(fleet.tally.refused, 0.99) < herd.refused_seconds
            assert fleet.tally.percentile(refused_at_first, 0.99) < herd.refused_at_first_seconds
            assert peak < 1.5 * steady


async def test_a_mesh_whose_certificates_are_all_due_recovers_from_an_outage(tmp_path: Path) -> None:
    """All valid within the back-off horizon and a drain; refusals are fast, memory is bounded, health stays up."""
    await recover(tmp_path, IN_CI)


@pytest.mark.torture
async def test_ten_thousand_identities_recover_from_an_outage_of_ten_minutes(tmp_path: Path) -> None:
    """2,000 ztunnels of 5 identities each; time runs at twice its speed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 65_536)), hard))
    await recover(tmp_path, IN_FULL)
