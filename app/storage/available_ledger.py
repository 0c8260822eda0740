"""The ledger of `ledger.mode: available`: durable in the database, or in this replica's journal while that is away.

Entries go straight to the database as long as it takes them. The first one that it does not take in time moves this
replica to its journal: from then on an entry counts as recorded when it is flushed there, and the drain tries the
database again and again, stores what waits in order (a second time does no harm, entries are known by their uid), and
moves the replica back once nothing waits. How long that may go on, and how much may wait, is bounded.

The price is said in docs/adr/0010: what only the journal holds is lost with this replica's disk.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from app.authority.ports import Clock
from app.errors import AppError, ErrorCode
from app.ledger.entry import LedgerEntry
from app.limits import JournalLimits
from app.storage.health import StorageHealth
from app.storage.journal import Journal
from app.storage.ledger_rows import PreparedEntry

_log = structlog.get_logger(__name__)

_AWAY = (ErrorCode.UNAVAILABLE, ErrorCode.TIMEOUT)


class EntryStore(Protocol):
    """The database, as far as entries are concerned."""

    async def store(self, entries: Sequence[PreparedEntry]) -> None:
        """Store entries durably, once, however often they come."""
        ...

    def refuse_when_stalled(self) -> None:
        """Raise `UNAVAILABLE` while a commit hangs."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerStanding:
    """How the ledger stands. `away_since` is None while the database takes entries."""

    away_since: datetime | None
    away_seconds: float
    seconds_left: float
    entries: int
    size_bytes: int
    drained: int
    reason: str  # why it counts as away

    @property
    def may_record(self) -> bool:
        """Whether the bound of `ledger.max_away_seconds` still allows to record anything."""
        return self.away_since is None or self.seconds_left > 0

    def __str__(self) -> str:
        """For readiness: one sentence."""
        if self.away_since is None:
            return ""
        since = self.away_since.strftime("%Y-%m-%dT%H:%M:%SZ")
        return (
            f"the database is away since {since} ({self.reason}); the journal holds {self.entries} entries, "
            f"{max(0, round(self.seconds_left))} s left"
        )


class AvailableLedger:
    """Implements `app.authority.ports.Ledger` over a database and a journal.

    `recover` once before serving; `run` beside it.
    """

    def __init__(
        self,
        database: EntryStore,
        journal: Journal,
        *,
        max_away_seconds: float,
        limits: JournalLimits,
        clock: Clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._journal = journal
        self._max_away_seconds = max_away_seconds
        self._limits = limits
        self._clock = clock
        self._monotonic = monotonic
        self._away_at: float | None = None  # monotonic; None: entries go straight to the database
        self._is_away = asyncio.Event()
        self._may_journal = asyncio.Event()  # cleared for the moment in which the last entries leave the journal
        self._may_journal.set()
        self._journalling = 0
        self._drained = 0
        self._reason = ""

    @property
    def journal_health(self) -> StorageHealth:
        """Whether the journal takes entries."""
        return self._journal.health

    def standing(self) -> LedgerStanding:
        """How the ledger stands now."""
        backlog, away = self._journal.backlog(), self._away_seconds()
        return LedgerStanding(
            away_since=None if self._away_at is None else self._clock.now() - timedelta(seconds=away),
            away_seconds=away,
            seconds_left=self._max_away_seconds - away,
            entries=backlog.entries,
            size_bytes=backlog.size_bytes,
            drained=self._drained,
            reason=self._reason,
        )

    async def append(self, entry: LedgerEntry) -> None:
        """See `app.authority.ports.Ledger.append`."""
        prepared = PreparedEntry.prepare(entry)
        while True:
            if self._away_at is None and await self._is_stored(prepared):
                return
            await self._may_journal.wait()
            if self._away_at is not None:  # else it came back while this one waited
                break
        if self._away_seconds() > self._max_away_seconds:
            raise AppError(
                ErrorCode.UNAVAILABLE,
                f"the database has been away for more than {self._max_away_seconds:.0f} s "
                "(ledger.max_away_seconds); nothing is issued until it is back",
                diagnosis=self._reason,
            )
        self._journalling += 1
        try:
            await self._journal.append(prepared)
        finally:
            self._journalling -= 1

    async def recover(self) -> None:
        """Store what an earlier process left in the journal, before anything else is recorded.

        A database that is away again keeps it waiting: then the time that it may be away counts from the oldest entry.

        Raises:
            AppError: when the journal cannot be read, or holds what the database refuses.
        """
        oldest = await asyncio.to_thread(self._journal.read, 1)
        if not oldest:
            return
        waited = (self._clock.now() - LedgerEntry.from_bytes(oldest[0][2]).time).total_seconds()
        self._begin_to_journal(f"{self._journal.backlog().entries} entries of an earlier process", max(0.0, waited))
        try:
            await self._drain()
        except TimeoutError:
            _log.warning("journal_kept", standing=str(self.standing()))
        except AppError as error:
            if error.code not in _AWAY:
                raise
            self._reason = error.detail
            _log.warning("journal_kept", standing=str(self.standing()))

    async def run(self) -> None:
        """Drain the journal whenever something waits there, for ever."""
        while True:
            await self._is_away.wait()
            try:
                await self._drain()
            except TimeoutError:
                self._reason = "the database does not answer in time"
            except AppError as error:
                self._reason = error.detail
                if error.code not in _AWAY:
                    _log.error("journal_not_drained", reason=error.detail, diagnosis=error.diagnosis)
            if self._away_at is not None:
                _log.warning("database_away", standing=str(self.standing()))
                await asyncio.sleep(self._limits.probe_seconds)

    async def _is_stored(self, prepared: PreparedEntry) -> bool:
        """Whether the database took it. Where that is not known, the journal gets it too, under the same uid."""
        try:
            self._database.refuse_when_stalled()
            async with asyncio.timeout(self._limits.patience_seconds):
                await self._database.store((prepared,))
        except TimeoutError:
            self._begin_to_journal(f"an entry was not stored within {self._limits.patience_seconds:.3g} s", 0.0)
        except AppError as error:
            if error.code not in _AWAY:
                raise
            self._begin_to_journal(error.detail, 0.0)
        else:
            return True
        return False

    def _begin_to_journal(self, reason: str, since_seconds: float) -> None:
        if self._away_at is None:
            self._away_at = self._monotonic() - since_seconds
            self._reason = reason
            self._is_away.set()
            _log.warning("ledger_uses_journal", reason=reason)

    async def _drain(self) -> None:
        """Move everything into the database, and go back to it.

        Raises:
            AppError, TimeoutError: when the database does not take it.
        """
        waiting = self._journal.backlog().entries
        while waiting > self._limits.drain_batch_entries:
            until = self._drained + waiting
            while self._drained < until and await self._drain_batch():
                pass
            before, waiting = waiting, self._journal.backlog().entries
            if waiting > before / 2:  # they come about as fast as they leave
                break
        # Hold newcomers for the moment that the rest takes, or under load the journal would never be empty.
        self._may_journal.clear()
        try:
            async with asyncio.timeout(self._limits.patience_seconds):
                await self._database.store(())  # an empty journal says nothing about the database
                # Nothing is awaited between the last look at the journal and leaving it.
                while self._journalling or self._journal.backlog().entries:
                    if not await self._drain_batch():
                        await asyncio.sleep(0)
            self._away_at = None
            self._is_away.clear()
            _log.info("ledger_uses_database", drained=self._drained)
        finally:
            self._may_journal.set()

    async def _drain_batch(self) -> int:
        found = await asyncio.to_thread(self._journal.read, self._limits.drain_batch_entries)
        if not found:
            return 0
        entries = [_prepared(uid, data) for _, uid, data in found]
        async with asyncio.timeout(self._limits.drain_seconds):
            await self._database.store(entries)
        await asyncio.to_thread(self._journal.forget, found)
        self._drained += len(found)
        return len(found)

    def _away_seconds(self) -> float:
        return 0.0 if self._away_at is None else max(0.0, self._monotonic() - self._away_at)


def _prepared(uid: bytes, data: bytes) -> PreparedEntry:
    try:
        return PreparedEntry(LedgerEntry.from_bytes(data), data, uid)
    except ValueError as error:
        raise AppError(
            ErrorCode.FAILED_PRECONDITION,
            "the journal holds an entry that this version cannot read; drain it with the version that wrote it",
            diagnosis=str(error),
        ) from error
