"""One suite a port, run on SQLite and on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.ledger.entry import EntryKind, LedgerEntry
from app.limits import StorageLimits
from app.storage.database import Database
from tests.support.postgres import postgres_server, postgres_url

__all__ = ["postgres_server", "postgres_url"]

NOW = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a new, empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'gatehouse.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


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
