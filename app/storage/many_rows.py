"""One statement for many rows of SQLite.

`executemany` runs its statement once a row, and the driver gives up the GIL before each and wants it back after: beside
a busy event loop that is a wait and a switch of threads for every row. So rows go in statements of many, whose numbers
are powers of two: there are few of them, and the driver keeps each prepared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, TypeVar

from sqlalchemy import Connection

T = TypeVar("T")
MAX_ROWS = 256  # in one statement; SQLite bounds the parameters of a statement by 32,766


def execute_for_rows(connection: Connection, statement: Callable[[int], str], rows: Sequence[tuple[Any, ...]]) -> int:
    """Run `statement(n)` for n rows at a time until all have had their turn; returns how many rows were changed."""
    return sum(
        connection.exec_driver_sql(statement(len(some)), tuple(chain.from_iterable(some))).rowcount
        for some in _by_powers_of_two(rows)
    )


def _by_powers_of_two(items: Sequence[T]) -> Iterator[Sequence[T]]:
    first = 0
    while left := len(items) - first:
        size = min(1 << left.bit_length() - 1, MAX_ROWS)
        yield items[first : first + size]
        first += size


def value_lists(columns: int, rows: int) -> str:
    """`(?, ?), (?, ?), ...` for VALUES."""
    one = "(" + ", ".join("?" * columns) + ")"
    return ", ".join([one] * rows)
