"""The ledger as it is read: checkpoints, hashes for proofs, entries, open intents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, func, select

from app.authority.ledger.ledger_ports import (
    EntryQuery,
    LedgerState,
    OpenIntent,
    StoredCheckpoint,
    StoredEntry,
)
from app.storage.ledger_head import checkpoint_of, damaged, newest_checkpoint
from app.storage.tables import certificates, intents, ledger, ledger_checkpoints, ledger_head, ledger_subtrees

_MAX_SCANNED = 50_000  # rows that one page of a filtered list looks at


class SqlLedgerRows:
    """Implements `app.authority.ledger.ledger_ports.LedgerRows`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def state(self, *, max_counted: int) -> LedgerState:
        """Size, backlog and the newest checkpoint."""
        size = self._connection.execute(select(ledger_head.c.size)).scalar_one()
        waiting = select(ledger.c.id).where(ledger.c.leaf_index.is_(None)).limit(max_counted).subquery()
        unnumbered = self._connection.execute(select(func.count()).select_from(waiting)).scalar_one()
        return LedgerState(size=size, unnumbered=unnumbered, newest=self.newest_checkpoint())

    def newest_checkpoint(self) -> StoredCheckpoint | None:
        """The newest checkpoint, or None before the first."""
        return newest_checkpoint(self._connection)

    def find_checkpoint(self, size: int) -> StoredCheckpoint | None:
        """The checkpoint of a size, if it is kept."""
        query = select(ledger_checkpoints).where(ledger_checkpoints.c.size == size)
        row = self._connection.execute(query).one_or_none()
        return None if row is None else checkpoint_of(row)

    def checkpoints(self, *, first: int, limit: int) -> list[StoredCheckpoint]:
        """Kept checkpoints with at least that size, by size."""
        query = (
            select(ledger_checkpoints)
            .where(ledger_checkpoints.c.size >= first)
            .order_by(ledger_checkpoints.c.size)
            .limit(limit)
        )
        return [checkpoint_of(row) for row in self._connection.execute(query)]

    def hashes(self, level: int, first: int, count: int) -> Sequence[bytes]:
        """Leaf hashes or kept subtree roots, in order."""
        number, value = ledger_subtrees.c.number, ledger_subtrees.c.root
        query = select(number, value).where(ledger_subtrees.c.level == level)
        if level == 0:
            number, value = ledger.c.leaf_index, ledger.c.leaf_hash
            query = select(number, value)
        query = query.where(number >= first, number < first + count).order_by(number)
        found = [bytes(row[1]) for row in self._connection.execute(query)]
        if len(found) != count:
            what = "entries" if level == 0 else f"subtree roots of level {level}"
            raise damaged(f"of the {what} from {first} to {first + count - 1} some are missing")
        return found

    def find_entry(self, *, index: int | None = None, uid: bytes | None = None) -> StoredEntry | None:
        """One entry by its index or by its uid."""
        condition = ledger.c.leaf_index == index if uid is None else ledger.c.uid == uid
        return self._one(select(ledger).where(condition))

    def find_issued(self, serial: str) -> StoredEntry | None:
        """The entry that records a certificate."""
        query = (
            select(ledger)
            .join(certificates, certificates.c.uid == ledger.c.uid)
            .where(certificates.c.serial == serial)
            .limit(1)
        )
        return self._one(query)

    def entries(self, query: EntryQuery) -> tuple[list[StoredEntry], int | None]:
        """Entries in stored order, and the position to go on after."""
        after = query.after
        if query.from_index is not None:
            first = self.find_entry(index=query.from_index)
            if first is None:
                return [], None
            after = max(after, first.position - 1)
        if query.kind and not query.subject:
            return self._entries_of_kind(query, after)
        statement = select(ledger).where(ledger.c.id > after).order_by(ledger.c.id).limit(query.limit)
        if query.subject:
            statement = statement.where(ledger.c.subject == query.subject)
        if query.kind:
            statement = statement.where(ledger.c.kind == query.kind)
        found = self._many(statement)
        return found, found[-1].position if len(found) == query.limit else None

    def numbered(self, first: int, end: int) -> list[StoredEntry]:
        """The entries with indices in [first, end)."""
        index = ledger.c.leaf_index
        return self._many(select(ledger).where(index >= first, index < end).order_by(index))

    def open_intents(self, *, after: str, limit: int) -> list[OpenIntent]:
        """Intents without a certificate; one whose certificate was stored before it is none."""
        recorded = select(certificates.c.uid).where(certificates.c.serial == intents.c.serial).exists()
        query = select(intents).where(intents.c.serial > after, ~recorded).order_by(intents.c.serial).limit(limit)
        return [
            OpenIntent(serial=row.serial, uid=bytes(row.uid), subject=row.subject, time=row.time)
            for row in self._connection.execute(query)
        ]

    def _entries_of_kind(self, query: EntryQuery, after: int) -> tuple[list[StoredEntry], int | None]:
        """By kind alone there is no index: a page looks at a bounded number of rows and may come out short."""
        window = select(ledger.c.id).where(ledger.c.id > after).order_by(ledger.c.id).limit(_MAX_SCANNED).subquery()
        last, rows = self._connection.execute(select(func.max(window.c.id), func.count()).select_from(window)).one()
        if not rows:
            return [], None
        found = self._many(
            select(ledger)
            .where(ledger.c.id > after, ledger.c.id <= last, ledger.c.kind == query.kind)
            .order_by(ledger.c.id)
            .limit(query.limit)
        )
        if len(found) == query.limit:
            return found, found[-1].position
        return found, last if rows == _MAX_SCANNED else None

    def _one(self, query: Select[Any]) -> StoredEntry | None:
        row = self._connection.execute(query).one_or_none()
        return None if row is None else _entry(row)

    def _many(self, query: Select[Any]) -> list[StoredEntry]:
        return [_entry(row) for row in self._connection.execute(query)]


def _entry(row: Row[Any]) -> StoredEntry:
    return StoredEntry(
        position=row.id,
        uid=bytes(row.uid),
        index=row.leaf_index,
        kind=row.kind,
        data=bytes(row.data),
        leaf_hash=bytes(row.leaf_hash),
    )
