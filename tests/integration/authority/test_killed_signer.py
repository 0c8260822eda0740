"""The signer is killed under each thing that a rotation asks of it: who asked tries again, and nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from app.authority.authorities.authority_ports import AuthorityRole
from app.ca.lifecycle import Step
from app.errors import AppError, ErrorCode
from app.keys.signer_client import SignerClient
from app.limits import AuthorityLimits, CertificateLimits, StorageLimits
from app.storage.database import Database
from tests.support.authorities import FixedClock, Kit, believes, make_kit
from tests.support.databases import new_sqlite
from tests.support.signer import signer_client

T = TypeVar("T")
LIFE = timedelta(seconds=300)
SHORT = CertificateLimits(default_ttl_seconds=300, max_ttl_seconds=300, min_ttl_seconds=300)
LIMITS = AuthorityLimits(settle_seconds=0, propagation_seconds=0)
_ASKED = frozenset({"generate_key", "open_authority", "close_authority", "sign_authority"})


class Fragile:
    """A `KeyKeeper` whose process is killed right before one of the questions that it is asked."""

    def __init__(self, client: SignerClient) -> None:
        self.client = client
        self.asked: list[str] = []
        self.point = 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.client, name)
        if name not in _ASKED:
            return found

        async def ask(*words: Any, **named: Any) -> Any:
            self._note(name)
            return await found(*words, **named)

        return ask

    def signer(self, authority_id: str) -> Any:
        return _FragileSigner(self, authority_id)

    def _note(self, name: str) -> None:
        self.asked.append(name)
        if len(self.asked) == self.point:
            os.kill(self.client.pid, signal.SIGKILL)


class _FragileSigner:
    def __init__(self, keeper: Fragile, authority_id: str) -> None:
        self._keeper, self._signer = keeper, keeper.client.signer(authority_id)

    async def sign(self, tbs: bytes) -> bytes:
        self._keeper._note("sign")
        return await self._signer.sign(tbs)


async def insist(attempt: Callable[[], Awaitable[T]]) -> T:
    """What an operator does: try again while it is said that this helps."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await attempt()
            except AppError as error:
                if error.code is not ErrorCode.UNAVAILABLE:
                    raise
            await asyncio.sleep(0.02)


async def rotated(kit: Kit) -> None:
    """A root follows another, and every certificate of the time is believed by whoever got the newest bundle."""
    (first,) = (row.id for row in (await kit.rows()).values() if row.role == "root")
    await insist(kit.issue)
    _, issuing = await insist(lambda: kit.rotate(AuthorityRole.ROOT))
    kit.clock.advance(timedelta(seconds=1))
    await insist(kit.issue)
    await insist(lambda: kit.do(Step.ACTIVATE, issuing))
    after = await insist(kit.issue)
    assert believes(after.chain, kit.authorities.current().bundle.pem, kit.clock.now())
    kit.clock.advance(LIFE + timedelta(seconds=1))
    await insist(lambda: kit.do(Step.REMOVE, first))
    await insist(kit.issue)


async def test_a_rotation_survives_the_death_of_the_signer_at_each_step(tmp_path: Path) -> None:
    """One authority of each kind at the end, its key alone open, and the root's key nowhere."""
    point, asked = 1, 1
    async with signer_client() as client:
        while point <= asked:
            with Database.open(new_sqlite(tmp_path / f"{point}.db"), StorageLimits()) as database:
                clock, keeper = FixedClock(), Fragile(client)
                clock.time = datetime.now(UTC).replace(microsecond=0) - LIFE * 2 / 3  # the signer's clock is real
                kit = make_kit(database, clock=clock, limits=LIMITS, certificate_limits=SHORT, keeper=keeper)  # type: ignore[arg-type]
                await insist(kit.open)
                keeper.asked.clear()
                keeper.point = point
                await rotated(kit)
                asked = max(asked, len(keeper.asked)) if point == 1 else asked

                in_use = sorted((row.role, row.state) for row in (await kit.rows()).values() if row.state != "retired")
                assert [("issuing", "active"), ("root", "active")] == in_use, keeper.asked
                active = kit.authorities.issuing.authority.id
                assert {active} == set(client._known), (point, keeper.asked)
                await insist(lambda active=active: client.close_authority(active))
            point += 1
    assert asked > 8
