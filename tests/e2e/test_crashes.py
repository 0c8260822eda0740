"""R1a: whoever is killed at whatever moment, every certificate that a client holds is on record, once, and proved.

CI kills a few times, `make torture` twenty times each. What was signed perhaps and received by nobody is an intent
without a certificate: it is listed as soon as Gatehouse serves again. `tests.support.ledger_audit` looks at all that.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.databases import empty_database_url
from tests.support.gatehouse import Gatehouse, merged
from tests.support.issuing_load import issuing_load, read_record
from tests.support.ledger_audit import Listing, audit, list_unfinished
from tests.support.nodes import Nodes, roots_of
from tests.support.postgres import empty_postgres_url, postgres_server

__all__ = ["empty_database_url", "empty_postgres_url", "postgres_server"]

pytestmark = pytest.mark.e2e

NODES = 4
DRAINED_CLIENTS = 32
KILLS, TORTURE_KILLS = 2, 20
TORTURE_CLIENTS = 256
READY_SECONDS = 5.0  # of the bar, on a machine that does nothing else
SLACK = 4  # elsewhere: so many times what the first start took there, before the clients came
# Somebody who kills the authority all the time is no crash loop to be slowed down.
OFTEN = {"limits": {"process": {"restart_burst": 1_000}}}
PATIENCE_SECONDS = 60.0
Kill = Callable[[Gatehouse], Awaitable[None]]


def authority(directory: Path, nodes: Nodes, database_url: str, **settings: Any) -> Gatehouse:
    base = {"role": "authority", "database": {"url": database_url}}
    return Gatehouse(directory, **merged(merged(base, nodes.settings), settings))


async def pid_of_authority(gatehouse: Gatehouse) -> int:
    return int((await gatehouse.processes())["authority"]["pid"])


async def kill_authority(gatehouse: Gatehouse) -> None:
    """The process with the database and the key; its supervisor starts another one."""
    os.kill(await pid_of_authority(gatehouse), signal.SIGKILL)


async def kill_everything(gatehouse: Gatehouse) -> None:
    """All processes of the host at once; somebody starts Gatehouse anew, on the same ports."""
    child = await pid_of_authority(gatehouse)
    assert gatehouse.process is not None
    for pid in (gatehouse.process.pid, child):
        os.kill(pid, signal.SIGKILL)
    await gatehouse.process.wait()
    ports = {name: {"port": int(address.rpartition(":")[2])} for name, address in gatehouse.addresses.items()}
    gatehouse.settings = merged(gatehouse.settings, {"listen": ports})
    await gatehouse.start()


async def until_another_serves(gatehouse: Gatehouse, old: int) -> float:
    """Seconds until another authority process is ready."""
    started = time.monotonic()
    await gatehouse.wait_until_ready(within=PATIENCE_SECONDS)
    await gatehouse.until(lambda children: children["authority"]["pid"] != old and children["authority"]["ready"])
    return time.monotonic() - started


async def kill_under_load(
    tmp_path: Path, database_url: str, kill: Kill, *, kills: int, clients: int, listed_within: float
) -> tuple[float, list[float]]:
    """Kill again and again while clients ask; how long the first start took, and each way back."""
    nodes, chance = Nodes(tmp_path, count=NODES, identities=8), random.Random(20261123)
    seconds: list[float] = []
    listings: list[Listing] = []
    started = time.monotonic()
    async with authority(tmp_path, nodes, database_url, **OFTEN) as gatehouse:
        first_start = time.monotonic() - started
        roots = await nodes.introduce(gatehouse)
        async with issuing_load(
            lambda number: nodes.agent(gatehouse.addresses["ca"], roots, number % NODES),
            lambda number: nodes.identities(number % NODES),
            clients=clients,
        ) as load:
            for _ in range(kills):
                await load.until(20)
                await asyncio.sleep(chance.uniform(0.0, 0.3))
                old, killed_at = await pid_of_authority(gatehouse), time.time()
                await kill(gatehouse)
                seconds.append(await until_another_serves(gatehouse, old))
                listings.append(await list_unfinished(gatehouse, killed_at=killed_at, within=listed_within))
            await load.until(20)
        record = await audit(gatehouse, database_url, load.received, listings)
    assert len(load.received.serials) >= 20 * (kills + 1)
    assert len(record.issued) >= len(load.received.serials)
    return first_start, seconds


@pytest.mark.parametrize("kill", [kill_authority, kill_everything])
async def test_a_kill_loses_no_certificate_that_anybody_received(
    tmp_path: Path, empty_database_url: str, kill: Kill
) -> None:
    """R1a, few kills."""
    _, seconds = await kill_under_load(
        tmp_path, empty_database_url, kill, kills=KILLS, clients=16, listed_within=PATIENCE_SECONDS
    )
    assert KILLS == len(seconds)


@pytest.mark.torture
@pytest.mark.parametrize("kill", [kill_authority, kill_everything])
async def test_twenty_kills_lose_no_certificate(tmp_path: Path, empty_database_url: str, kill: Kill) -> None:
    """R1a, in full: 20/20, and ready again within five seconds each time (`SLACK`)."""
    first_start, seconds = await kill_under_load(
        tmp_path, empty_database_url, kill, kills=TORTURE_KILLS, clients=TORTURE_CLIENTS, listed_within=READY_SECONDS
    )
    assert [] == [round(one, 1) for one in seconds if one >= max(READY_SECONDS, SLACK * first_start)]


@asynccontextmanager
async def replicas(tmp_path: Path, nodes: Nodes, url: str, **settings: Any) -> AsyncIterator[list[Gatehouse]]:
    """Two authorities with state directories of their own, one database and one passphrase, started at once."""
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("correct horse battery staple correct horse\n")
    passphrase.chmod(0o600)
    shared = merged({"keys": {"passphrase_file": str(passphrase)}, **OFTEN}, settings)
    made = [authority(tmp_path / name, nodes, url, **shared) for name in ("one", "two")]
    try:
        await asyncio.gather(*(replica.__aenter__() for replica in made))
        yield made
    finally:
        await asyncio.gather(*(replica.kill() for replica in made))


async def kill_replicas_in_turn(tmp_path: Path, url: str, *, rounds: int, clients: int) -> None:
    nodes, chance = Nodes(tmp_path, count=NODES, identities=8), random.Random(20261124)
    listings: list[Listing] = []
    async with replicas(tmp_path, nodes, url) as both:
        roots = await nodes.introduce(both[0])
        async with await both[1].admin() as client:
            assert roots == await roots_of(client)  # the first start of two at once made one root

        def connect(number: int) -> Any:
            return nodes.agent(both[number % 2].addresses["ca"], roots, number % NODES)

        async with issuing_load(connect, lambda number: nodes.identities(number % NODES), clients=clients) as load:
            for turn in range(rounds):
                await load.until(20)
                await asyncio.sleep(chance.uniform(0.0, 0.3))
                killed = both[turn % 2]
                old, killed_at = await pid_of_authority(killed), time.time()
                await kill_authority(killed)
                await until_another_serves(killed, old)
                listings.append(await list_unfinished(killed, killed_at=killed_at, within=PATIENCE_SECONDS))
            await load.until(20)
        for replica in both:
            await audit(replica, url, load.received, listings)


@pytest.mark.postgres
async def test_killing_each_replica_in_turn_loses_no_certificate(tmp_path: Path, empty_postgres_url: str) -> None:
    """Two replicas on one PostgreSQL, started at the same moment on an empty database, clients on both."""
    await kill_replicas_in_turn(tmp_path, empty_postgres_url, rounds=2, clients=16)


@pytest.mark.postgres
@pytest.mark.torture
async def test_forty_kills_of_replicas_lose_no_certificate(tmp_path: Path, empty_postgres_url: str) -> None:
    """The same, twenty times each."""
    await kill_replicas_in_turn(tmp_path, empty_postgres_url, rounds=2 * TORTURE_KILLS, clients=128)


async def test_a_drain_finishes_what_was_begun(tmp_path: Path) -> None:
    """Case 76: SIGTERM under load; every call is served or told to come again, and no intent is left without its end."""
    nodes = Nodes(tmp_path, count=NODES, identities=8)
    url = f"sqlite:///{tmp_path / 'state' / 'gatehouse.db'}"
    async with authority(tmp_path, nodes, url) as gatehouse:
        roots = await nodes.introduce(gatehouse)
        async with issuing_load(
            lambda number: nodes.agent(gatehouse.addresses["ca"], roots, number % NODES),
            lambda number: nodes.identities(number % NODES),
            clients=DRAINED_CLIENTS,
        ) as load:
            await load.until(20)
            assert gatehouse.process is not None
            gatehouse.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(PATIENCE_SECONDS):
                assert 0 == await gatehouse.process.wait()
    record = read_record(url)
    record.account_for(load.received)
    assert {"OK", "UNAVAILABLE"} == set(load.received.codes), load.received.without_id
    assert set() == record.possibly_signed
