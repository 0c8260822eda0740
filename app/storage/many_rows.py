"""One statement for many rows of SQLite.

`executemany` runs its statement once a row, and the driver gives up the GIL before each and wants it back after: beside
a busy event loop that is a wait and a switch of threads for every row. So rows go in statements of many: as many as
there are, up to a bound, and above it numbers that are powers of two. There are few of them then, and the driver keeps
each prepared (`KEPT_STATEMENTS`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, TypeVar

from sqlalchemy import Connection

T = TypeVar("T")
MAX_ROWS = 256  # in one statement; SQLite bounds the parameters of a statement by 32,766
EXACT_ROWS = 32  # up to here each number of rows has a statement of its own; a group commit rarely has more
# For the driver of SQLite: the numbers of rows of the five statements that take many, and what else is written.
KEPT_STATEMENTS = 256


def execute_for_rows(connection: Connection, statement: Callable[[int], str], rows: Sequence[tuple[Any, ...]]) -> int:
    """Run `statement(n)` for n rows at a time until all have had their turn; returns how many rows were changed."""
    return sum(
        connection.exec_driver_sql(statement(len(some)), tuple(chain.from_iterable(some))).rowcount
        for some in _in_few_sizes(rows)
    )


def _in_few_sizes(items: Sequence[T]) -> Iterator[Sequence[T]]:
    first = 0
    while left := len(items) - first:
        size = left if left <= EXACT_ROWS else min(1 << left.bit_length() - 1, MAX_ROWS)
        yield items[first : first + size]
        first += size


@lru_cache(maxsize=KEPT_STATEMENTS)
def value_lists(columns: int, rows: int) -> str:
    """`(?, ?), (?, ?), ...` for VALUES."""
    one = "(" + ", ".join("?" * columns) + ")"
    return ", ".join([one] * rows)
