"""Who numbers: what is shown and when, what happens when it cannot, and when issuing is shed."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from app.authority.ledger.ledger_ports import LedgerState, Sign, StoredCheckpoint, Turn
from app.authority.ledger.sequencer import BoundedLedger, Sequencer
from app.errors import AppError, ErrorCode
from app.ledger.entry import EntryKind, LedgerEntry
from app.limits import LedgerLimits
from tests.support.ledger import LEDGER_KEY, NOW

LIMITS = LedgerLimits(max_unnumbered=5, max_turn_entries=2)


class Clock:
    """Time stands still."""

    def now(self):  # type: ignore[no-untyped-def]
        return NOW


@dataclass
class Log:
    """A database that numbers what it is told to have, and a high-water file, as one list of what happened."""

    waiting: int = 0
    size: int = 0
    is_busy: bool = False  # another replica numbers
    error: AppError | None = None
    file_error: AppError | None = None
    events: list[str] = field(default_factory=list)

    async def sequence(self, turn: Turn, sign: Sign) -> int:
        if self.error is not None:
            raise self.error
        if self.is_busy:
            return 0
        count = min(self.waiting, turn.max_entries)
        self.waiting, self.size = self.waiting - count, self.size + count
        if count:
            sign(self.size, b"r" * 32)
            self.events.append(f"stored {self.size}")
        return count

    async def ledger_state(self, *, max_counted: int) -> LedgerState:
        newest = None
        if self.size:
            note = LEDGER_KEY.sign(self.size, b"r" * 32)
            newest = StoredCheckpoint(size=self.size, root=b"r" * 32, note=note, time=NOW)
        return LedgerState(size=self.size, unnumbered=min(self.waiting, max_counted), newest=newest)

    async def thin_checkpoints(self, *, keep: int) -> int:
        raise AssertionError(keep)

    async def wait_for_entries(self, seconds: float) -> None:
        raise NotImplementedError(seconds)

    def remember(self, note: str) -> None:
        if self.file_error is not None:
            raise self.file_error
        self.events.append(f"remembered {LEDGER_KEY.public.verify(note).size}")

    def condemn(self, note: str) -> None:
        raise AssertionError(note)

    async def append(self, entry: LedgerEntry) -> None:
        self.events.append(entry.kind.value)


def sequencer_of(log: Log, limits: LedgerLimits = LIMITS) -> Sequencer:
    return Sequencer(log, LEDGER_KEY.sign, log, clock=Clock(), limits=limits)


def an_entry(kind: EntryKind) -> LedgerEntry:
    return LedgerEntry(kind=kind, time=NOW, actor="a", subject="s")


async def test_everything_is_numbered_and_shown_after_it_was_remembered() -> None:
    """Turns until nothing is left; the file on this host comes before anybody sees the checkpoint."""
    log = Log(waiting=5)
    sequencer = sequencer_of(log)
    assert sequencer.newest is None
    await sequencer.catch_up()
    assert ["stored 2", "stored 4", "stored 5", "remembered 5"] == log.events
    assert sequencer.newest is not None
    assert (5, 5, 0, "ok") == (sequencer.newest.size, sequencer.size, sequencer.unnumbered, sequencer.reason)


async def test_a_replica_shows_what_another_one_signed() -> None:
    """It reads the newest checkpoint and remembers it on its own host."""
    log = Log(size=7, is_busy=True)
    sequencer = sequencer_of(log)
    await sequencer.catch_up()
    await sequencer.catch_up()
    assert ["remembered 7"] == log.events


async def test_what_cannot_be_remembered_is_not_shown() -> None:
    """A full disk under the state directory: the checkpoint waits, the reason is said, and it recovers."""
    log = Log(waiting=1, file_error=AppError(ErrorCode.UNAVAILABLE, "no space"))
    sequencer = sequencer_of(log)
    await sequencer.catch_up()
    assert (None, "no space") == (sequencer.newest, sequencer.reason)
    log.file_error = None
    await sequencer.catch_up()
    assert "ok" == sequencer.reason
    assert sequencer.newest is not None


async def test_no_new_certificate_is_begun_when_numbering_stands_still() -> None:
    """Up to the bound issuing goes on; above it intents are refused, and what was begun is still recorded."""
    log = Log(error=AppError(ErrorCode.FAILED_PRECONDITION, "the ledger was changed: row 7"))
    sequencer = sequencer_of(log)
    ledger = BoundedLedger(log, sequencer, LIMITS)
    await sequencer.catch_up()
    for _ in range(5):
        await ledger.append(an_entry(EntryKind.CERTIFICATE_INTENT))
    with pytest.raises(AppError) as refusal:
        await ledger.append(an_entry(EntryKind.CERTIFICATE_INTENT))
    assert ErrorCode.OVERLOADED is refusal.value.code
    assert "row 7" in refusal.value.diagnosis
    await ledger.append(an_entry(EntryKind.CERTIFICATE_ISSUED))
    await ledger.append(an_entry(EntryKind.ADMIN_ACT))
    log.error = None
    await sequencer.catch_up()
    await ledger.append(an_entry(EntryKind.CERTIFICATE_INTENT))
    assert 8 == len(log.events)


async def test_a_database_that_is_away_does_not_use_up_the_bound() -> None:
    """What a journal takes meanwhile has a bound of its own."""
    log = Log(error=AppError(ErrorCode.UNAVAILABLE, "away"))
    sequencer = sequencer_of(log)
    ledger = BoundedLedger(log, sequencer, LIMITS)
    await sequencer.catch_up()
    for _ in range(20):
        await ledger.append(an_entry(EntryKind.CERTIFICATE_INTENT))
    assert 0 == sequencer.unnumbered
