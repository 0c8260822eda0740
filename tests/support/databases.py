"""Databases of the tests: new ones with the tables in them, copied from one that was migrated once, and empty ones.

Running every migration for every test would take half of the time of the tests that store something.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import pytest

from app.limits import StorageLimits
from app.storage.database import Database

_KINDS = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]


def new_sqlite(path: Path) -> str:
    """The URL of a new SQLite file that has the tables of today; one that is there already is left alone."""
    if not path.exists():
        path.touch(0o600)
        path.write_bytes(_migrated_sqlite())
    return f"sqlite:///{path}"


@cache
def _migrated_sqlite() -> bytes:
    with tempfile.TemporaryDirectory(prefix="gatehouse-template-") as folder:
        path = Path(folder) / "template.db"
        Database.open(f"sqlite:///{path}", StorageLimits()).close()
        # All of it is in the one file: the last connection to close wrote back what was in the log.
        assert [path.name, path.name + ".lock"] == sorted(entry.name for entry in Path(folder).iterdir())
        return path.read_bytes()


@pytest.fixture(params=_KINDS)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a new database with the tables of today and nothing in them."""
    if request.param == "sqlite":
        return new_sqlite(tmp_path / "gatehouse.db")
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture(params=_KINDS)
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database without any table, as the first start finds it."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'gatehouse.db'}"
    url: str = request.getfixturevalue("empty_postgres_url")
    return url
