"""Many rows in few statements."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine

from app.storage.many_rows import EXACT_ROWS, MAX_ROWS, execute_for_rows, value_lists


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 32, 33, 256, 257, 1023])
def test_every_row_is_given_once_in_few_statements(count: int) -> None:
    """A few rows take one statement, many take few that are the same ones again, and no row is left out."""
    asked: list[int] = []

    def insert(rows: int) -> str:
        asked.append(rows)
        return f"INSERT INTO numbers VALUES {value_lists(2, rows)} ON CONFLICT DO NOTHING"

    with create_engine("sqlite://").connect() as connection:
        connection.exec_driver_sql("CREATE TABLE numbers (number INTEGER PRIMARY KEY, double INTEGER)")
        connection.exec_driver_sql("INSERT INTO numbers VALUES (0, 0)")
        stored = execute_for_rows(connection, insert, [(number, 2 * number) for number in range(1, count + 1)])
        found = connection.exec_driver_sql("SELECT number, double FROM numbers ORDER BY number").all()

        again = execute_for_rows(connection, insert, [(number, 0) for number in range(1, count + 1)])

    assert count == stored
    assert [(number, 2 * number) for number in range(count + 1)] == [tuple(row) for row in found]
    assert 0 == again, "what is there already does not count as stored"
    assert all(rows <= EXACT_ROWS or (rows <= MAX_ROWS and rows & (rows - 1) == 0) for rows in asked)
    if count <= EXACT_ROWS:
        assert [count, count] == asked or not count, "one statement for storing, one for storing again"
