"""Ledger entries: prepared while a unit of work runs, stored together right before the commit.

Stored entries have no index yet: that one comes later, from whoever numbers them (`app.storage.ledger_head`), so that
storing takes no lock that writers of several replicas would share. An entry's `uid` makes storing it again harmless.

This is the hot path of issuing, hence statements that go to the driver as they are, few a table and commit.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, select

from app.ledger.entry import EntryKind, LedgerEntry, leaf_hash
from app.storage.many_rows import execute_for_rows, value_lists
from app.storage.tables import ledger
from app.storage.upsert import chunks

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_CERTIFICATE_TEXTS = ("authority", "node", "cluster", "purpose", "bundle")


@dataclass(frozen=True, slots=True)
class _Insert:
    """INSERT ... ON CONFLICT DO NOTHING of many rows, in each database's quickest form."""

    table: str
    columns: Mapping[str, str]  # by name, the type of each in PostgreSQL

    @classmethod
    def into(cls, table: str, **columns: str) -> _Insert:
        return cls(table, columns)

    def run(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> int:
        """Store the rows that are not there yet; returns how many those were."""
        if connection.dialect.name == "postgresql":
            arrays = ", ".join(f"%b::{kind}[]" for kind in self.columns.values())
            parameters = tuple(map(list, zip(*rows, strict=True)))
            statement = self._of(f"SELECT * FROM unnest({arrays})")  # noqa: S608 - names of ours, no value in it
            return connection.exec_driver_sql(statement, parameters).rowcount
        return execute_for_rows(connection, self._of_rows, rows)

    def _of_rows(self, count: int) -> str:
        return self._of(f"VALUES {value_lists(len(self.columns), count)}")

    def _of(self, source: str) -> str:
        names = ", ".join(self.columns)
        return f"INSERT INTO {self.table} ({names}) {source} ON CONFLICT DO NOTHING"


_ENTRIES = _Insert.into(
    "ledger", uid="bytea", kind="text", subject="text", time="int8", data="bytea", leaf_hash="bytea"
)
_INTENTS = _Insert.into("intents", serial="text", uid="bytea", subject="text", time="int8")
_CERTIFICATES = _Insert.into(
    "certificates",
    uid="bytea",
    identity="text",
    serial="text",
    key_hash="text",
    sha256="text",
    not_before="int8",
    not_after="int8",
    holder="text",
    **dict.fromkeys(_CERTIFICATE_TEXTS, "text"),
)
CERTIFICATE_COLUMNS = tuple(_CERTIFICATES.columns)[1:]  # all but the uid


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


def store_entries(connection: Connection, entries: Sequence[PreparedEntry]) -> frozenset[bytes]:
    """Store entries in the connection's transaction; those that are stored already stay as they are.

    Returns the uids under which other bytes are stored than were given: those entries are not on record.
    """
    if not entries:
        return frozenset()
    stored = _ENTRIES.run(
        connection,
        [
            (
                prepared.uid,
                prepared.entry.kind.value,
                stored_text(prepared.entry.subject),
                microseconds(prepared.entry.time),
                prepared.data,
                leaf_hash(prepared.data),
            )
            for prepared in entries
        ],
    )
    others = frozenset() if stored == len(entries) else _with_other_bytes(connection, entries)
    intents = [
        (_serial(prepared.entry), prepared.uid, stored_text(prepared.entry.subject), microseconds(prepared.entry.time))
        for prepared in entries
        if prepared.entry.kind is EntryKind.CERTIFICATE_INTENT and prepared.uid not in others
    ]
    if intents:
        _INTENTS.run(connection, intents)
    issued = [
        prepared
        for prepared in entries
        if prepared.entry.kind is EntryKind.CERTIFICATE_ISSUED and prepared.uid not in others
    ]
    if issued:
        _CERTIFICATES.run(connection, [(prepared.uid, *certificate_columns(prepared.entry)) for prepared in issued])
        _close_intents(connection, [_serial(prepared.entry) for prepared in issued])
    return others


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


def _with_other_bytes(connection: Connection, entries: Sequence[PreparedEntry]) -> frozenset[bytes]:
    given = {prepared.uid: prepared.data for prepared in entries}
    others = {prepared.uid for prepared in entries if given[prepared.uid] != prepared.data}
    for uids in chunks(given):
        for row in connection.execute(select(ledger.c.uid, ledger.c.data).where(ledger.c.uid.in_(uids))):
            if bytes(row.data) != given[bytes(row.uid)]:
                others.add(bytes(row.uid))
    return frozenset(others)


def _close_intents(connection: Connection, serials: Sequence[str]) -> None:
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("DELETE FROM intents WHERE serial = ANY(%s::text[])", (list(serials),))
    else:
        execute_for_rows(connection, _delete_intents, [(serial,) for serial in serials])


def _delete_intents(count: int) -> str:
    return f"DELETE FROM intents WHERE serial IN (VALUES {value_lists(1, count)})"  # noqa: S608 - marks of ours


def certificate_columns(entry: LedgerEntry) -> tuple[Any, ...]:
    """What certificates are looked for by, taken from the entry that records one; in the order of its columns."""
    detail = entry.detail
    return (
        stored_text(entry.subject),
        _serial(entry),
        str(detail.get("keySha256", "")),
        str(detail.get("certificateSha256", "")),
        stored_time(detail.get("notBefore")),
        stored_time(detail.get("notAfter")),
        _holder(entry),
        *(stored_text(str(detail.get(name, ""))) for name in _CERTIFICATE_TEXTS),
    )


def _holder(entry: LedgerEntry) -> str:
    """Who else of the same identity on the same node may hold a certificate of its own.

    A node proxy asks for its node's workloads and has one certificate an identity; workloads that ask for themselves
    have one each, and stay who they are when they renew with it. Those of whom no pod is known are each taken for
    another, so that nobody is overlooked.
    """
    if not entry.actor.startswith("workload:"):
        return ""
    detail = entry.detail
    return stored_text(str(detail.get("holder") or detail.get("callerPod") or detail.get("serial", "")))


def _serial(entry: LedgerEntry) -> str:
    return str(entry.detail.get("serial", ""))


def stored_text(text: str) -> str:
    """Text as its column holds it."""
    return text.replace("\x00", "\ufffd")  # PostgreSQL stores no NUL in text; the canonical bytes have it


def microseconds(moment: datetime) -> int:
    """Since the epoch."""
    return (moment - _EPOCH) // _MICROSECOND


def stored_time(text: object) -> int | None:
    """A time of an entry as its column holds it; None for what is not one."""
    if not isinstance(text, str):
        return None
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        return None
    return microseconds(parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC))
