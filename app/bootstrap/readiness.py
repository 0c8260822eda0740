"""Whether the authority can do its work: it signs something, its database takes writes, its inventory is fresh."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from app.authority.authorities.authority_ports import KeyKeeper
from app.authority.certificates.clock_guard import ClockGuard
from app.authority.certificates.issue_certificate import Issuer
from app.authority.placement.placements import Placements
from app.bootstrap.child import is_fine
from app.bootstrap.ledger import OpenLedger
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
        ledger: OpenLedger,
        *,
        clock_guard: ClockGuard,
    ) -> None:
        self._issuer = issuer
        self._keeper = keeper
        self._database = database
        self._placements = placements
        self._ledger = ledger
        self._clock_guard = clock_guard
        self._reasons: dict[str, str] = {"start": "was not checked yet"}
        self._signing_failure = ""
        self._is_stopped = False
        self._servers: tuple[GrpcServer, ...] = ()

    def reasons(self) -> Mapping[str, str]:
        """What keeps the authority from being ready, or that nothing does (`is_fine`), part by part."""
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
            for health in (self._database.health(), self._ledger.journal_health()):
                if health.fatal:
                    raise AppError(ErrorCode.UNAVAILABLE, f"only a restart helps: {health.reason}")
            serves = not self._is_stopped and all(map(is_fine, self._reasons.values()))
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
        signer, database = await asyncio.gather(self._sign(), self._ask_database())
        return {
            "signer": signer,
            "database": self._bridged(database),
            "inventory": self._ask_inventory(),
            "clock": "ok" if self._clock_guard.is_right else "the clock was moved; nothing is issued until it is right",
        }

    def _bridged(self, database: str) -> str:
        """What the journal makes of a database that is away."""
        standing, journal = self._ledger.standing(), self._ledger.journal_health()
        if standing is None:
            return database
        if not journal.ok:
            return f"the journal takes no entries: {journal.reason}"
        if standing.away_since is not None:
            return f"ok: {standing}" if standing.may_record else f"{standing}: nothing is recorded any more"
        # Away, and no certificate was asked for yet that would have shown it to the ledger.
        return "ok" if database == "ok" else f"ok: {database}; the journal stands in for it"

    async def _sign(self) -> str:
        try:
            async with asyncio.timeout(_INTERVAL_SECONDS):
                await self._keeper.probe(self._issuer.state.authority.id)
        except (AppError, TimeoutError) as error:
            if self._signing_failure != repr(error):  # a key that is not in its file may stay away for long
                self._signing_failure = repr(error)
                _log.error("readiness_signing_failed", error=self._signing_failure)
            return "the signer does not sign"
        self._signing_failure = ""
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
