"""Numbers the ledger's entries and has checkpoints signed, beside everything else that the authority does.

Every replica runs one, and takes what no other one is numbering. A checkpoint is durable in the database, then in this
host's high-water file, and only then shown to anybody, so whatever was shown can be missed when it is gone.
Issuing does not wait for this. It goes on while numbering is behind, up to a bound (`BoundedLedger`).
"""

from __future__ import annotations

import asyncio
import time

import structlog

from app.authority.ledger.ledger_ports import LedgerState, SequencerStore, Sign, StoredCheckpoint, Turn
from app.authority.ledger.rollback_guard import CheckpointMemory
from app.authority.ports import Clock, Ledger
from app.errors import AppError, ErrorCode
from app.ledger.entry import EntryKind, LedgerEntry
from app.limits import LedgerLimits

_log = structlog.get_logger(__name__)
_OK = "ok"


class Sequencer:
    """One replica's part in numbering; `newest` is the newest checkpoint that may be shown."""

    def __init__(
        self,
        store: SequencerStore,
        sign: Sign,
        memory: CheckpointMemory,
        *,
        clock: Clock,
        limits: LedgerLimits,
    ) -> None:
        self._store = store
        self._sign = sign
        self._memory = memory
        self._clock = clock
        self._limits = limits
        self._thinned_at = time.monotonic()
        self.newest: StoredCheckpoint | None = None
        self.size = 0
        self.unnumbered = 0
        self.reason = _OK
        self._is_away = False

    def count_stored(self) -> None:
        """Another entry waits for its index: counted at once, so that the bound holds when numbering stands still.

        Not while the database is away: what a journal takes meanwhile has a bound of its own.
        """
        if not self._is_away:
            self.unnumbered += 1

    async def run(self) -> None:
        """Number for ever; a failure is said in `reason` and tried again."""
        while True:
            await self.catch_up()
            await self._store.wait_for_entries(self._limits.tick_seconds)
            await asyncio.sleep(self._limits.gather_seconds)  # so that more entries share the next checkpoint

    async def catch_up(self) -> None:
        """Number what is there and show the newest checkpoint."""
        try:
            while await self._take_turn():
                pass
            await self._look()
            await self._thin()
        except AppError as error:
            if self.reason != error.detail:
                _log.error("ledger_numbering_failed", reason=error.detail, diagnosis=error.diagnosis)
            self.reason, self._is_away = error.detail, error.code is ErrorCode.UNAVAILABLE
        else:
            if self.reason != _OK:
                _log.info("ledger_numbering_recovered")
            self.reason, self._is_away = _OK, False

    async def _take_turn(self) -> bool:
        """One turn; whether there is more to do."""
        turn = Turn(now=self._clock.now(), max_entries=self._limits.max_turn_entries)
        return await self._store.sequence(turn, self._sign) == turn.max_entries

    async def _look(self) -> None:
        state: LedgerState = await self._store.ledger_state(max_counted=self._limits.max_unnumbered + 1)
        self.size, self.unnumbered = state.size, state.unnumbered
        newest = state.newest
        if newest is not None and (self.newest is None or newest.note != self.newest.note):
            await asyncio.to_thread(self._memory.remember, newest.note)
            self.newest = newest

    async def _thin(self) -> None:
        now = time.monotonic()
        if now - self._thinned_at > self._limits.thin_seconds:
            self._thinned_at = now
            await self._store.thin_checkpoints(keep=self._limits.kept_checkpoints)


class BoundedLedger:
    """The ledger as issuing sees it: no new certificate is begun while too many entries wait for their index."""

    def __init__(self, ledger: Ledger, sequencer: Sequencer, limits: LedgerLimits) -> None:
        self._ledger = ledger
        self._sequencer = sequencer
        self._limits = limits

    async def append(self, entry: LedgerEntry) -> None:
        """See `app.authority.ports.Ledger.append`.

        Raises:
            AppError: `OVERLOADED` for an intent over the bound; what was begun is always recorded.
        """
        is_intent = entry.kind is EntryKind.CERTIFICATE_INTENT
        if is_intent and self._sequencer.unnumbered >= self._limits.max_unnumbered:
            raise AppError(
                ErrorCode.OVERLOADED,
                "too many ledger entries wait for a checkpoint; try again",
                diagnosis=f"numbering stands: {self._sequencer.reason}",
            )
        await self._ledger.append(entry)
        self._sequencer.count_stored()
