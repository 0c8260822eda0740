"""Ledger entries: prepared while a unit of work runs, numbered and stored together right before the commit.

The index is handed out from a counter row in the same transaction: the row stays locked until the commit, so the
indices of several replicas have no gap and become visible in their order.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, insert, select

from app.ledger.entry import EntryKind, LedgerEntry, leaf_hash
from app.storage.counters import advance
from app.storage.tables import certificates, ledger
from app.storage.upsert import chunks


def new_uid() -> bytes:
    """An id for an entry: 16 bytes that begin with the time, so that new ones sit together in an index."""
    return int(time.time() * 1000).to_bytes(6) + os.urandom(10)


@dataclass(frozen=True, slots=True)
class PreparedEntry:
    """An entry with its canonical bytes; making one fails for what is not JSON, before anything is queued."""

    entry: LedgerEntry
    data: bytes
    uid: bytes = field(default_factory=new_uid)

    @classmethod
    def prepare(cls, entry: LedgerEntry) -> PreparedEntry:
        """Serialise an entry.

        Raises:
            ValueError, TypeError: when its detail is not JSON.
        """
        return cls(entry, entry.to_bytes())


def store_entries(connection: Connection, entries: Sequence[PreparedEntry]) -> None:
    """Number and store entries in the connection's transaction; one that is stored already (by uid) is left alone."""
    known = _known_uids(connection, entries)
    entries = [prepared for prepared in entries if prepared.uid not in known]
    if not entries:
        return
    first = advance(connection, "ledger", len(entries)) - len(entries)
    connection.execute(
        insert(ledger),
        [
            {
                "uid": prepared.uid,
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
    issued = [_certificate_row(prepared) for prepared in entries if prepared.entry.kind is EntryKind.CERTIFICATE_ISSUED]
    if issued:
        connection.execute(insert(certificates), issued)


def has_entries(connection: Connection, entries: Sequence[PreparedEntry]) -> bool:
    """Whether every one of the entries is stored."""
    return len(_known_uids(connection, entries)) == len({prepared.uid for prepared in entries})


def _known_uids(connection: Connection, entries: Sequence[PreparedEntry]) -> set[bytes]:
    known: set[bytes] = set()
    for some in chunks(prepared.uid for prepared in entries):
        known.update(
            bytes(uid) for uid in connection.execute(select(ledger.c.uid).where(ledger.c.uid.in_(some))).scalars()
        )
    return known


def _certificate_row(prepared: PreparedEntry) -> dict[str, Any]:
    """What certificates are looked for by, taken from the entry that records one."""
    detail = prepared.entry.detail
    texts = ("serial", "authority", "node", "cluster", "purpose", "bundle")
    return {
        "uid": prepared.uid,
        "identity": prepared.entry.subject,
        "key_hash": str(detail.get("keySha256", "")),
        "sha256": str(detail.get("certificateSha256", "")),
        "not_before": _time(detail.get("notBefore")),
        "not_after": _time(detail.get("notAfter")),
        "holder": _holder(prepared.entry),
        **{name: str(detail.get(name, "")) for name in texts},
    }


def _holder(entry: LedgerEntry) -> str:
    """Who else of the same identity on the same node may hold a certificate of its own.

    A node proxy asks for its node's workloads and has one certificate an identity; workloads that ask for themselves
    have one each, and stay who they are when they renew with it. Those of whom no pod is known are each taken for
    another, so that nobody is overlooked.
    """
    if not entry.actor.startswith("workload:"):
        return ""
    detail = entry.detail
    return str(detail.get("holder") or detail.get("callerPod") or detail.get("serial", ""))


def _time(text: object) -> datetime | None:
    if not isinstance(text, str):
        return None
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
