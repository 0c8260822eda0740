"""Ledger entries: prepared while a unit of work runs, numbered and stored together right before the commit.

The index is handed out from a counter row in the same transaction: the row stays locked until the commit, so the
indices of several replicas have no gap and become visible in their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, insert

from app.ledger.entry import EntryKind, LedgerEntry, leaf_hash
from app.storage.counters import advance
from app.storage.tables import certificates, ledger


@dataclass(frozen=True, slots=True)
class PreparedEntry:
    """An entry with its canonical bytes; making one fails for what is not JSON, before anything is queued."""

    entry: LedgerEntry
    data: bytes

    @classmethod
    def prepare(cls, entry: LedgerEntry) -> PreparedEntry:
        """Serialise an entry.

        Raises:
            ValueError, TypeError: when its detail is not JSON.
        """
        return cls(entry, entry.to_bytes())


def store_entries(connection: Connection, entries: Sequence[PreparedEntry]) -> None:
    """Number and store entries in the connection's transaction."""
    if not entries:
        return
    first = advance(connection, "ledger", len(entries)) - len(entries)
    connection.execute(
        insert(ledger),
        [
            {
                "leaf_index": first + offset,
                "kind": prepared.entry.kind.value,
                "subject": prepared.entry.subject.replace("\x00", "\ufffd"),  # PostgreSQL stores no NUL in text
                "time": prepared.entry.time,
                "data": prepared.data,
                "leaf_hash": leaf_hash(prepared.data),
            }
            for offset, prepared in enumerate(entries)
        ],
    )
    issued = [
        _certificate_row(first + offset, prepared.entry)
        for offset, prepared in enumerate(entries)
        if prepared.entry.kind is EntryKind.CERTIFICATE_ISSUED
    ]
    if issued:
        connection.execute(insert(certificates), issued)


def _certificate_row(index: int, entry: LedgerEntry) -> dict[str, Any]:
    """What certificates are looked for by, taken from the entry that records one."""
    not_after = entry.detail.get("notAfter")
    return {
        "leaf_index": index,
        "serial": str(entry.detail.get("serial", "")),
        "identity": entry.subject,
        "node": str(entry.detail.get("node", "")),
        "not_after": _time(not_after) if isinstance(not_after, str) else None,
    }


def _time(text: str) -> datetime | None:
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
