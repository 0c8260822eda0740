"""The numbers that only grow. Advancing one locks its row until the commit, on every database."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, select, update

from app.storage.tables import counters

_ADVANCE = (
    update(counters)
    .where(counters.c.name == bindparam("counter"))
    .values(value=counters.c.value + bindparam("step"))
    .returning(counters.c.value)
)
_SET = update(counters).where(counters.c.name == bindparam("counter")).values(value=bindparam("new_value"))
_ALL = select(counters.c.name, counters.c.value)
_ONE = select(counters.c.value).where(counters.c.name == bindparam("counter"))


def advance(connection: Connection, name: str, step: int = 1) -> int:
    """Add to a counter and return its new value."""
    return int(connection.execute(_ADVANCE, {"counter": name, "step": step}).scalar_one())


def assign(connection: Connection, name: str, value: int) -> None:
    """Give a counter a value that another counter reached."""
    connection.execute(_SET, {"counter": name, "new_value": value})


def value_of(connection: Connection, name: str) -> int:
    """A counter's value."""
    return int(connection.execute(_ONE, {"counter": name}).scalar_one())


def all_values(connection: Connection) -> dict[str, int]:
    """Every counter."""
    return {row.name: row.value for row in connection.execute(_ALL)}
