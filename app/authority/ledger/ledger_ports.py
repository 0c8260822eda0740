"""What keeping and reading the ledger needs from the database.

Entries are stored first and numbered later, by whichever replica comes first: a turn locks the head of the tree,
numbers what has no index yet, signs the new checkpoint and stores it, all in one transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

Sign = Callable[[int, bytes], str]  # tree size and root hash to signed note


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One try to number entries, at most `max_entries` of them."""

    now: datetime
    max_entries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCheckpoint:
    """A signed checkpoint as it rests."""

    size: int
    root: bytes
    note: str
    time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerState:
    """How the ledger stands: entries with and without an index (the latter counted up to a bound)."""

    size: int
    unnumbered: int
    newest: StoredCheckpoint | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEntry:
    """An entry as it rests; `index` is None until it is numbered, `position` only orders the rows of this database."""

    position: int
    uid: bytes
    index: int | None
    kind: str
    data: bytes
    leaf_hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenIntent:
    """An intent without a certificate on record: being issued now, or possibly signed and lost."""

    serial: str
    uid: bytes
    subject: str
    time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryQuery:
    """Which entries to list: rows after a position, at most `limit` of them; empty texts mean any."""

    after: int = 0
    from_index: int | None = None
    subject: str = ""
    kind: str = ""
    limit: int = 100


class LedgerRows(Protocol):
    """The ledger, read in one consistent state."""

    def state(self, *, max_counted: int) -> LedgerState:
        """Size, backlog (counted up to `max_counted`) and the newest checkpoint."""
        ...

    def newest_checkpoint(self) -> StoredCheckpoint | None:
        """The newest checkpoint, or None before the first."""
        ...

    def find_checkpoint(self, size: int) -> StoredCheckpoint | None:
        """The checkpoint of a size, if it is kept."""
        ...

    def checkpoints(self, *, first: int, limit: int) -> list[StoredCheckpoint]:
        """Kept checkpoints with at least that size, by size."""
        ...

    def hashes(self, level: int, first: int, count: int) -> Sequence[bytes]:
        """See `app.ledger.frontier.SubtreeRoots`."""
        ...

    def find_entry(self, *, index: int | None = None, uid: bytes | None = None) -> StoredEntry | None:
        """One entry."""
        ...

    def find_issued(self, serial: str) -> StoredEntry | None:
        """The entry that records the certificate with a serial (lower-case hexadecimal)."""
        ...

    def entries(self, query: EntryQuery) -> tuple[list[StoredEntry], int | None]:
        """Entries in stored order, and the position to go on after, or None at the end."""
        ...

    def numbered(self, first: int, end: int) -> list[StoredEntry]:
        """The entries with indices in [first, end), in order."""
        ...

    def open_intents(self, *, after: str, limit: int) -> list[OpenIntent]:
        """Intents without a certificate, by serial."""
        ...


class SequencerStore(Protocol):
    """The part of the database that numbering uses."""

    async def sequence(self, turn: Turn, sign: Sign) -> int:
        """Number up to `max_entries` entries and store the checkpoint, in one transaction; how many they were.

        Waits for nobody: while another replica numbers, it is 0.

        Raises:
            AppError: `FAILED_PRECONDITION` naming what was changed when the stored ledger is not what was signed or
                hashed; `UNAVAILABLE` when nothing is certain to be stored.
        """
        ...

    async def thin_checkpoints(self, *, keep: int) -> int:
        """Forget old checkpoints, all but the newest `keep`, one an hour and one a day; returns how many went."""
        ...

    async def ledger_state(self, *, max_counted: int) -> LedgerState:
        """How the ledger stands."""
        ...

    async def wait_for_entries(self, seconds: float) -> None:
        """Return when this process stored entries, at the latest after that time."""
        ...
