"""Which ledger the issuer records in: the database, or in mode `available` the database with the journal behind it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass

from app.authority.ports import Clock, Ledger
from app.errors import AppError, ErrorCode
from app.settings import Settings
from app.settings.model import LedgerMode
from app.storage.available_ledger import AvailableLedger, LedgerStanding
from app.storage.database import Database
from app.storage.health import HEALTHY, StorageHealth
from app.storage.journal import Journal
from app.telemetry import metrics


@dataclass(frozen=True, slots=True)
class OpenLedger:
    """The ledger to record in. `available` is there in mode `available` only."""

    ledger: Ledger
    available: AvailableLedger | None = None

    def standing(self) -> LedgerStanding | None:
        """How it stands, in mode `available`."""
        return None if self.available is None else self.available.standing()

    def has_unrecorded(self) -> bool:
        """Whether the journal holds entries that the database has not got yet."""
        standing = self.standing()
        return standing is not None and standing.entries > 0

    def journal_health(self) -> StorageHealth:
        """Whether the journal takes entries; without one nothing is wrong with it."""
        return HEALTHY if self.available is None else self.available.journal_health

    async def run(self) -> None:
        """What it has to do beside serving."""
        if self.available is not None:
            await self.available.run()

    def count(self) -> None:
        """Flush its figures into the metrics."""
        standing = self.standing()
        metrics.LEDGER_MODE.labels("strict" if standing is None else "available").set(1)
        if standing is not None:
            metrics.JOURNAL_ENTRIES.set(standing.entries)
            metrics.JOURNAL_BYTES.set(standing.size_bytes)
            metrics.DATABASE_AWAY_SECONDS.set(standing.away_seconds)
            _drained.flush({(): standing.drained})


_drained = metrics.Tally(metrics.JOURNAL_DRAINED)


async def open_ledger(settings: Settings, database: Database, clock: Clock, stack: AsyncExitStack) -> OpenLedger:
    """The ledger of the configured mode; what an earlier process left in a journal is stored first.

    Raises:
        AppError: `FAILED_PRECONDITION` when the journal is in use or damaged; `UNAVAILABLE` in mode `strict` when a
            journal still holds entries and the database does not take them.
    """
    is_available = settings.ledger.mode is LedgerMode.AVAILABLE
    if not is_available and not settings.journal_dir.is_dir():
        return OpenLedger(database)
    journal = await asyncio.to_thread(Journal.open, settings.journal_dir, settings.limits.journal)
    stack.push_async_callback(asyncio.to_thread, journal.close)
    journal.start()
    available = AvailableLedger(
        database,
        journal,
        max_away_seconds=settings.ledger.max_away_seconds,
        limits=settings.limits.journal,
        clock=clock,
    )
    await available.recover()
    if is_available:
        return OpenLedger(available, available)
    if available.standing().entries:
        raise AppError(
            ErrorCode.UNAVAILABLE,
            f"the journal {settings.journal_dir} holds entries that the database does not take: {available.standing()}",
        )
    return OpenLedger(database)
