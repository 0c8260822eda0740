"""PostgreSQL hangs, dies and comes back while nodes ask for certificates: what each `ledger.mode` promises."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_crashes import (
    NODES,
    authority,
    kill_authority,
    kill_everything,
    pid_of_authority,
    replicas,
    until_another_serves,
)
from tests.support.gatehouse import Gatehouse
from tests.support.issuing_load import IssuingLoad, issuing_load
from tests.support.ledger_audit import audit
from tests.support.nodes import Nodes
from tests.support.postgres import PostgresServer, another_server

pytestmark = [pytest.mark.e2e, pytest.mark.postgres]
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is missing: apt-get install strace")

BUDGET_SECONDS = 10.0  # limits.ca_grpc.rpc_budget_seconds
CLIENTS = 16
AVAILABLE = {"ledger": {"mode": "available", "max_away_seconds": 600}, "limits": {"journal": {"patience_seconds": 1.0}}}


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A PostgreSQL of its own, because it is stopped."""
    with another_server() as own:
        yield own


@dataclass
class Running:
    """An authority, its PostgreSQL, and nodes that ask it all the time."""

    gatehouse: Gatehouse
    server: PostgresServer
    url: str
    load: IssuingLoad

    async def journal(self) -> float:
        """How many entries wait in the journal, as /metrics says."""
        return await self.metric("gatehouse_journal_entries")

    async def metric(self, name: str) -> float:
        return await metric_of(self.gatehouse, name)

    async def verbose(self) -> tuple[int, str]:
        answer = await self.gatehouse.get("/readyz?verbose")
        return answer.status_code, answer.text

    async def until_says(self, status: int, text: str, *, within: float = 30.0) -> None:
        """Until /readyz?verbose has a status and says a text."""
        said = (0, "")
        try:
            async with asyncio.timeout(within):
                while said[0] != status or text not in said[1]:
                    await asyncio.sleep(0.05)
                    said = await self.verbose()
        except TimeoutError:
            raise AssertionError(f"not {status} with {text!r} within {within} s but {said}") from None

    async def until_drained(self) -> None:
        await until_drained(self.gatehouse)


async def metric_of(gatehouse: Gatehouse, name: str) -> float:
    """One figure of /metrics."""
    lines = (await gatehouse.get("/metrics")).text.splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + " "))


async def until_drained(gatehouse: Gatehouse) -> None:
    """Until the database takes entries again and the journal holds none."""
    async with asyncio.timeout(60):
        while await metric_of(gatehouse, "gatehouse_journal_entries") or await metric_of(
            gatehouse, "gatehouse_database_away_seconds"
        ):
            await asyncio.sleep(0.1)


@asynccontextmanager
async def running(tmp_path: Path, server: PostgresServer, **settings: Any) -> AsyncIterator[Running]:
    nodes, url = Nodes(tmp_path, count=NODES, identities=8), server.create_database()
    async with authority(tmp_path, nodes, url, **settings) as gatehouse:
        roots = await nodes.introduce(gatehouse)
        async with issuing_load(
            lambda number: nodes.agent(gatehouse.addresses["ca"], roots, number % NODES),
            lambda number: nodes.identities(number % NODES),
            clients=CLIENTS,
        ) as load:
            await load.until(20)
            yield Running(gatehouse, server, url, load)
        await audit(gatehouse, url, load.received)
        assert load.received.longest_seconds < BUDGET_SECONDS + 3.0


async def test_strict_a_database_that_hangs_is_refused_fast_and_forgotten_when_it_goes_on(
    tmp_path: Path, server: PostgresServer
) -> None:
    """SIGSTOP: every call is answered within its budget, most at once; SIGCONT: issuing goes on without a restart."""
    async with running(tmp_path, server) as run:
        before = await pid_of_authority(run.gatehouse)
        server.pause()
        try:
            await run.until_says(503, "database")
            refused = len(run.load.received.refusal_seconds)
            async with asyncio.timeout(30):
                while len(run.load.received.refusal_seconds) < refused + 50:
                    await asyncio.sleep(0.05)
        finally:
            server.resume()
        fast = sorted(run.load.received.refusal_seconds)
        await run.load.until(20)
        await run.until_says(200, "authority: ok")
        assert before == await pid_of_authority(run.gatehouse)
        assert {"UNAVAILABLE", "DEADLINE_EXCEEDED", "OK"} >= set(run.load.received.codes)
    assert fast[len(fast) // 2] < 1.0


async def test_strict_a_database_that_dies_costs_no_acknowledged_certificate(
    tmp_path: Path, server: PostgresServer
) -> None:
    """Killed and restarted under load, three times; the authority is not restarted and answers all the time."""
    async with running(tmp_path, server) as run:
        before = await pid_of_authority(run.gatehouse)
        for _ in range(3):
            server.stop(crash=True)
            await run.until_says(503, "database")
            server.start()
            await run.load.until(20)
        await run.until_says(200, "authority: ok")
        assert before == await pid_of_authority(run.gatehouse)


@needs_strace
async def test_strict_a_flush_of_postgresql_that_fails_costs_no_acknowledged_certificate(
    tmp_path: Path, server: PostgresServer
) -> None:
    """R2c: the server panics and recovers from its log; here that is a lost connection, and nobody was told a lie."""
    async with running(tmp_path, server) as run:
        before = await pid_of_authority(run.gatehouse)
        _, *backends = server.pids()  # not the postmaster, which makes new ones
        tracer = await asyncio.create_subprocess_exec(
            *("strace", *(part for pid in backends for part in ("-p", str(pid)))),
            *("-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:error=EIO", "-o", os.devnull),
            stderr=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(30):
            while "PANIC" not in server.log.read_text(errors="replace"):
                await asyncio.sleep(0.05)
            await tracer.wait()  # it ends with the processes that it looks at
        await run.load.until(20)
        await run.until_says(200, "authority: ok")
        assert before == await pid_of_authority(run.gatehouse)
        assert {"UNAVAILABLE", "DEADLINE_EXCEEDED", "OK"} >= set(run.load.received.codes)


@pytest.mark.parametrize("how", ["dies", "hangs"])
async def test_available_issuing_goes_on_without_the_database(tmp_path: Path, server: PostgresServer, how: str) -> None:
    """Nobody is refused, readiness stays up and says what is going on; afterwards everything is in the database."""
    async with running(tmp_path, server, **AVAILABLE) as run:
        server.pause() if how == "hangs" else server.stop(crash=True)
        try:
            await run.load.until(100)
            await run.until_says(200, "ok: the database is away since")
            assert await run.journal() > 0
        finally:
            server.resume() if how == "hangs" else server.start()
        await run.until_drained()
        await run.load.until(20)
        await run.until_says(200, "process authority: ok\n")
        assert await run.metric("gatehouse_journal_drained_total") >= 100
    assert {"OK"} == set(run.load.received.codes), run.load.received.messages


@pytest.mark.parametrize("kill", [kill_authority, pytest.param(kill_everything, marks=pytest.mark.torture)])
async def test_available_a_kill_while_the_database_is_away_loses_nothing(
    tmp_path: Path, server: PostgresServer, kill: Any
) -> None:
    """R1a for the journal: what only it held is stored by the next process, before that serves."""
    async with running(tmp_path, server, **AVAILABLE) as run:
        server.stop(crash=True)
        await run.load.until(100)
        old = await pid_of_authority(run.gatehouse)
        await kill(run.gatehouse)
        await asyncio.sleep(0.5)
        server.start()
        await until_another_serves(run.gatehouse, old)
        await run.load.until(20)
        await run.until_drained()


async def test_available_ends_at_its_bound_and_says_so(tmp_path: Path, server: PostgresServer) -> None:
    """Past `ledger.max_away_seconds` nothing is issued, readiness goes down with the reason, and it comes back alone."""
    settings = {**AVAILABLE, "ledger": {"mode": "available", "max_away_seconds": 3}}
    async with running(tmp_path, server, **settings) as run:
        server.stop(crash=True)
        await run.until_says(503, "nothing is recorded any more")
        assert any("ledger.max_away_seconds" in message for message in run.load.received.messages)
        server.start()
        await run.load.until(20)
        await run.until_drained()
        await run.until_says(200, "process authority: ok\n")


async def test_available_replicas_with_a_journal_each_lose_nothing_and_store_nothing_twice(
    tmp_path: Path, server: PostgresServer
) -> None:
    """Both go on without their PostgreSQL, one is killed meanwhile; afterwards there is one dense, proved log of both."""
    nodes, url = Nodes(tmp_path, count=NODES, identities=8), server.create_database()
    async with replicas(tmp_path, nodes, url, **AVAILABLE) as both:
        roots = await nodes.introduce(both[0])
        async with issuing_load(
            lambda number: nodes.agent(both[number % 2].addresses["ca"], roots, number % NODES),
            lambda number: nodes.identities(number % NODES),
            clients=CLIENTS,
        ) as load:
            await load.until(20)
            server.stop(crash=True)
            async with asyncio.timeout(60):
                for replica in both:
                    while not await metric_of(replica, "gatehouse_journal_entries"):
                        await asyncio.sleep(0.05)
            await load.until(100)
            old = await pid_of_authority(both[1])
            await kill_authority(both[1])
            await load.until(20)  # of the other one
            server.start()
            await until_another_serves(both[1], old)
            for replica in both:
                await until_drained(replica)
            await load.until(40)
        for replica in both:
            await audit(replica, url, load.received)
            assert await metric_of(replica, "gatehouse_journal_drained_total") > 0
