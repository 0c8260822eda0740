"""Whether the authority can do its work: it signs something, its database takes writes, its inventory is fresh."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from app.authority.authority_ports import KeyKeeper
from app.authority.clock_guard import ClockGuard
from app.authority.issue_certificate import Issuer
from app.authority.placements import Placements
from app.errors import AppError, ErrorCode
from app.rpc.server import GrpcServer
from app.storage.database import Database

_log = structlog.get_logger(__name__)

_INTERVAL_SECONDS = 1.0
_IMPATIENT_SECONDS = 0.1  # while something is missing
_DATABASE_SECONDS = 2.0


class Readiness:
    """Looks every second, and tells the health service when the answer changes."""

    def __init__(
        self,
        issuer: Issuer,
        keeper: KeyKeeper,
        database: Database,
        placements: Placements,
        *,
        clock_guard: ClockGuard,
    ) -> None:
        self._issuer = issuer
        self._keeper = keeper
        self._database = database
        self._placements = placements
        self._clock_guard = clock_guard
        self._reasons: dict[str, str] = {"start": "was not checked yet"}
        self._is_stopped = False
        self._servers: tuple[GrpcServer, ...] = ()

    def reasons(self) -> Mapping[str, str]:
        """What keeps the authority from being ready, or "ok", part by part."""
        return self._reasons

    async def run(self, *servers: GrpcServer) -> None:
        """Check for ever, and let the health of `servers` follow.

        Raises:
            AppError: `UNAVAILABLE` when only a new process helps: after a failed flush nobody knows what is durable.
        """
        self._servers = servers
        served = False
        while True:
            self._reasons = await self._check()
            if self._database.health().fatal:
                raise AppError(ErrorCode.UNAVAILABLE, f"the database must be opened anew: {self._reasons['database']}")
            serves = not self._is_stopped and all(reason == "ok" for reason in self._reasons.values())
            if serves != served:
                served = serves
                await self._tell(serves)
                _log.info("readiness_changed", ready=serves, reasons=self._reasons)
            await asyncio.sleep(_INTERVAL_SECONDS if serves else _IMPATIENT_SECONDS)

    async def stop(self) -> None:
        """NOT_SERVING from now on."""
        self._is_stopped = True
        await self._tell(False)

    async def _tell(self, serves: bool) -> None:
        for server in self._servers:
            await server.health.set_all(serves)

    async def _check(self) -> dict[str, str]:
        return {
            "signer": await self._sign(),
            "database": await self._ask_database(),
            "inventory": self._ask_inventory(),
            "clock": "ok" if self._clock_guard.is_right else "the clock was moved; nothing is issued until it is right",
        }

    async def _sign(self) -> str:
        try:
            async with asyncio.timeout(_INTERVAL_SECONDS):
                await self._keeper.probe(self._issuer.state.authority.id)
        except (AppError, TimeoutError) as error:
            _log.error("readiness_signing_failed", error=repr(error))
            return "the signer does not sign"
        return "ok"

    async def _ask_database(self) -> str:
        health = self._database.health()
        if not health.ok:
            return f"the database takes no writes: {health.reason}"
        try:
            async with asyncio.timeout(_DATABASE_SECONDS):
                await self._database.list_authorities()
        except (AppError, TimeoutError) as error:
            _log.warning("readiness_reading_failed", error=repr(error))
            return "the database does not answer"
        return "ok"

    def _ask_inventory(self) -> str:
        """One cluster whose placement is not known does not end the service for the others."""
        states = self._placements.describe()
        if any(state.usable for state in states.values()):
            return "ok"
        return "; ".join(f"placement of {cluster}: {state.problem}" for cluster, state in states.items())
