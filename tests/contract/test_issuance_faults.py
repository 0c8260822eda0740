"""R3 and R22: whatever single statement of issuing fails or hangs, the caller hears of it in time.

Nothing is signed without a record, the service goes on, and the next request is as if nothing had been.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from app.authority.certificates.issue_certificate import IssuingState
from app.demo.node_agent import CertificateRefused
from app.limits import CertificateLimits, Limits, StorageLimits
from app.storage.database import Database
from tests.support.ca import CART, Served, World, make_world, serve
from tests.support.certificates import make_csr
from tests.support.key_keeper import AnythingSigner

# A twentieth of what is shipped, so that a hang costs a test half a second and not ten.
BUDGET_SECONDS = 0.5
SCALED = StorageLimits(stall_seconds=0.1)
HANG_SECONDS = 3.0  # if nobody lets it go
SLACK_SECONDS = 2.0  # for a machine that does other things, too
IN_TIME = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


@dataclass
class NotingSigner:
    """Signs, and notes what was signed."""

    signer: AnythingSigner
    signed: list[str] = field(default_factory=list)

    async def sign(self, tbs: bytes) -> bytes:
        self.signed.append(hashlib.sha256(tbs).hexdigest())
        return await self.signer.sign(tbs)


@dataclass
class Issuing:
    """The certificate service on a real database."""

    database: Database
    served: Served
    signer: NotingSigner

    async def fetch(self) -> tuple[grpc.StatusCode, float]:
        """Ask once; the status and the seconds it took."""
        started = time.monotonic()
        async with self.served.agent() as agent:
            try:
                await agent.fetch(CART)
            except CertificateRefused as refused:
                return refused.code, time.monotonic() - started
        return grpc.StatusCode.OK, time.monotonic() - started

    async def entries(self, kind: str) -> list[dict[str, Any]]:
        rows = await self.database.read_ledger(0, 10_000)
        parsed = [json.loads(data) for _, data, _ in rows]
        return [entry["detail"] for entry in parsed if entry["kind"] == kind]

    async def check_record(self, *, received: int) -> None:
        """Everything signed has its intent; whatever was received has its certificate."""
        await self.served.world.issuer.drain()
        intents = {detail["tbsSha256"] for detail in await self.entries("certificate.intent")}
        assert set() == set(self.signer.signed) - intents
        assert received <= len(await self.entries("certificate.issued"))


@asynccontextmanager
async def issuing(database_url: str, *, in_haste: bool = False) -> AsyncIterator[Issuing]:
    """With the bounds of time that are shipped, which a busy machine keeps; in haste with a twentieth of them."""
    grpc_limits = Limits().ca_grpc
    limits = CertificateLimits(node_burst=10_000, identity_burst=10_000, early_renewals=10_000)
    if in_haste:
        grpc_limits = replace(grpc_limits, rpc_budget_seconds=BUDGET_SECONDS)
        limits = replace(limits, max_job_seconds=3 * BUDGET_SECONDS)
    with Database.open(database_url, SCALED if in_haste else StorageLimits()) as database:
        world = make_world(durable=database, limits=limits)
        signer = _noting(world)
        async with serve(world, grpc_limits) as served:
            yield Issuing(database, served, signer)


def _noting(world: World) -> NotingSigner:
    signer = NotingSigner(AnythingSigner(world.pki.issuing_key))
    world.issuer.replace_state(IssuingState.of(world.pki.authority, signer, world.pki.bundle))
    return signer


@contextmanager
def at_statement(database: Database, position: int, effect: Callable[[str], None]) -> Iterator[list[str]]:
    """Let something happen at the n-th statement of the writer; gives the statements seen."""
    seen: list[str] = []

    def hook(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)
        if len(seen) == position:
            effect(statement)

    event.listen(database._engines.writer, "before_cursor_execute", hook)
    try:
        yield seen
    finally:
        event.remove(database._engines.writer, "before_cursor_execute", hook)


async def count_statements(world: Issuing) -> int:
    with at_statement(world.database, 0, lambda _: None) as seen:
        assert grpc.StatusCode.OK is (await world.fetch())[0]
    return len(seen)


def fail(statement: str) -> None:
    raise OperationalError(statement, None, Exception("injected"))


async def test_every_statement_of_issuing_may_fail_once(database_url: str) -> None:
    """UNAVAILABLE, and the next request is served."""
    async with issuing(database_url) as world:
        statements = await count_statements(world)
        assert statements >= 4
        for position in range(1, statements + 1):
            with at_statement(world.database, position, fail):
                assert grpc.StatusCode.UNAVAILABLE is (await world.fetch())[0]
            assert grpc.StatusCode.OK is (await world.fetch())[0]
        await world.check_record(received=statements + 1)


@pytest.mark.parametrize("commit", [1, 2])
async def test_either_commit_may_fail(database_url: str, monkeypatch: pytest.MonkeyPatch, commit: int) -> None:
    """That of the intent: nothing is signed. That of the certificate: it is signed, on record as an intent, and kept back."""
    async with issuing(database_url) as world:
        await world.fetch()
        dialect, signed = world.database._engines.writer.dialect, len(world.signer.signed)
        real, commits = dialect.do_commit, 0

        def failing(connection: Any) -> None:
            nonlocal commits
            commits += 1
            if commits == commit:
                connection.rollback()
                raise dialect.loaded_dbapi.OperationalError("commit failed")
            real(connection)

        with monkeypatch.context() as patch:
            patch.setattr(dialect, "do_commit", failing)
            code, _ = await world.fetch()
        assert grpc.StatusCode.UNAVAILABLE is code
        assert commit - 1 == len(world.signer.signed) - signed
        assert grpc.StatusCode.OK is (await world.fetch())[0]
        await world.check_record(received=2)


async def test_every_statement_of_issuing_may_hang(database_url: str) -> None:
    """The caller hears of it within its budget, others are refused at once meanwhile, and then all is well again."""
    async with issuing(database_url) as calm:
        statements = await count_statements(calm)
    async with issuing(database_url, in_haste=True) as world:
        for position in range(1, statements + 1):
            release, hangs = threading.Event(), threading.Event()

            def hang(_: str, release: threading.Event = release, hangs: threading.Event = hangs) -> None:
                hangs.set()
                release.wait(HANG_SECONDS)

            with at_statement(world.database, position, hang):
                caught = asyncio.create_task(world.fetch())
                assert await asyncio.to_thread(hangs.wait, 10)
                async with asyncio.timeout(10):
                    while not world.database._ledger.is_stalled:
                        await asyncio.sleep(0.01)
                others = await asyncio.gather(*(world.fetch() for _ in range(5)))
                code, seconds = await caught
                release.set()
            assert code in IN_TIME
            assert seconds < BUDGET_SECONDS + SLACK_SECONDS
            assert {grpc.StatusCode.UNAVAILABLE} == {other for other, _ in others}
            await served_again(world)
        await world.check_record(received=statements + 1)


async def served_again(world: Issuing) -> None:
    """The commit that hung ends in its own time; from then on requests are served."""
    async with asyncio.timeout(10):
        while (await world.fetch())[0] is not grpc.StatusCode.OK:
            await asyncio.sleep(0.01)


async def test_slow_commits_are_slow_answers_and_nothing_worse(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R13: each commit takes half of the budget; answers come within the budget, and soon again when it is over."""
    async with issuing(database_url, in_haste=True) as world:
        await world.fetch()
        dialect = world.database._engines.writer.dialect
        real = dialect.do_commit

        def slow(connection: Any) -> None:
            time.sleep(BUDGET_SECONDS / 2)
            real(connection)

        with monkeypatch.context() as patch:
            patch.setattr(dialect, "do_commit", slow)
            answers = await asyncio.gather(*(world.fetch() for _ in range(20)))
        assert set() == {code for code, _ in answers} - IN_TIME - {grpc.StatusCode.OK}
        assert max(seconds for _, seconds in answers) < BUDGET_SECONDS + SLACK_SECONDS
        await served_again(world)
        await world.check_record(received=sum(code is grpc.StatusCode.OK for code, _ in answers))


async def test_the_same_csr_a_hundred_times_at_once_is_a_hundred_certificates(database_url: str) -> None:
    """Case 73: distinct serials, one intent and one certificate on record for each, no deadlock."""
    async with issuing(database_url) as world, AsyncExitStack() as stack:
        csr = make_csr(names=(CART,))
        agents = [await stack.enter_async_context(world.served.agent()) for _ in range(4)]
        chains = await asyncio.gather(
            *(agent.create_certificate(csr, 3_600, impersonate=CART) for agent in agents for _ in range(25)),
            return_exceptions=True,
        )
        assert [] == [chain for chain in chains if isinstance(chain, BaseException)]
        details = await world.entries("certificate.issued")
        issued = [detail["serial"] for detail in details if "node" in detail]  # not that of the listener
        assert 100 == len(set(issued)) == len(issued)
        assert 100 == len({chain[0] for chain in chains if isinstance(chain, list)})
        await world.check_record(received=100)


async def test_clients_that_leave_right_after_asking_leave_all_or_nothing(database_url: str) -> None:
    """Case 74: what was begun is finished and on record; there is no signature without a record."""
    async with issuing(database_url) as world:
        csr = make_csr(names=(CART,))
        async with world.served.agent() as agent:
            for number in range(30):
                call = asyncio.create_task(agent.create_certificate(csr, 3_600, impersonate=CART))
                await asyncio.sleep(number * 0.0005)
                call.cancel()
                await asyncio.gather(call, return_exceptions=True)
        await world.check_record(received=0)
        intents = {detail["serial"] for detail in await world.entries("certificate.intent")}
        issued = {detail["serial"] for detail in await world.entries("certificate.issued")}
        assert intents == issued
