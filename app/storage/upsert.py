"""INSERT ... ON CONFLICT, which both databases know and generic SQLAlchemy does not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import Connection, Insert, Table
from sqlalchemy.dialects import postgresql, sqlite

T = TypeVar("T")
CHUNK = 500  # values in one IN list; SQLite and PostgreSQL both bound the parameters of a statement


def upsert(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows, or replace all other columns of those whose primary key exists."""
    if not rows:
        return
    keys = [column.name for column in table.primary_key.columns]
    others = [column.name for column in table.columns if column.name not in keys]
    if connection.dialect.name == "postgresql":
        statement = postgresql.insert(table)
        excluded = statement.excluded
        connection.execute(
            statement.on_conflict_do_update(index_elements=keys, set_={name: excluded[name] for name in others}),
            rows,
        )
        return
    lite = sqlite.insert(table)
    connection.execute(
        lite.on_conflict_do_update(index_elements=keys, set_={name: lite.excluded[name] for name in others}), rows
    )


def insert_if_absent(connection: Connection, table: Table, row: dict[str, Any]) -> None:
    """Insert a row unless its primary key exists."""
    statement: Insert
    if connection.dialect.name == "postgresql":
        statement = postgresql.insert(table).values(row).on_conflict_do_nothing()
    else:
        statement = sqlite.insert(table).values(row).on_conflict_do_nothing()
    connection.execute(statement)


def chunks(items: Iterable[T], size: int = CHUNK) -> Iterator[list[T]]:
    """The items in lists of a bounded length."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
