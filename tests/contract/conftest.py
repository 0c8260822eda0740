"""One suite a port, run on SQLite and on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from app.ledger.entry import EntryKind, LedgerEntry
from app.limits import StorageLimits
from app.storage.database import Database
from tests.support.databases import database_url, empty_database_url
from tests.support.postgres import empty_postgres_url, postgres_server, postgres_url

__all__ = ["database_url", "empty_database_url", "empty_postgres_url", "postgres_server", "postgres_url"]

NOW = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An open database."""
    with Database.open(database_url, StorageLimits(change_poll_seconds=0.05)) as opened:
        yield opened


@pytest.fixture
def entry() -> LedgerEntry:
    """A ledger entry."""
    return make_entry("spiffe://cluster.local/ns/shop/sa/cart")


def make_entry(subject: str, kind: EntryKind = EntryKind.CERTIFICATE_INTENT, **detail: object) -> LedgerEntry:
    return LedgerEntry(kind=kind, time=NOW, actor="node:test", subject=subject, request_id="r-1", detail=detail)
