"""Who holds what is read from the unexpired certificates alone, however many there ever were."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, event

from app.storage import coverage_rows
from app.storage.tables import metadata

NOW = datetime(2026, 11, 23, tzinfo=UTC)


def plan_of(connection: Connection, ask: Any) -> str:
    """How SQLite goes about what `ask` executes."""
    seen: list[tuple[str, Any]] = []
    event.listen(
        connection, "before_cursor_execute", lambda _c, _cursor, sql, values, *_: seen.append((sql, values)), once=True
    )
    ask(connection)
    ((sql, values),) = seen
    return "\n".join(row[-1] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values))


@pytest.mark.parametrize(
    "ask",
    [
        lambda connection: coverage_rows.holdings(connection, NOW, NOW),
        lambda connection: coverage_rows.nodes_without(connection, ["aa"], NOW, NOW, 10),
        lambda connection: coverage_rows.last_ends(connection, NOW),
        lambda connection: coverage_rows.needed_ends(connection, NOW),
    ],
    ids=["holdings", "nodes_without", "last_ends", "needed_ends"],
)
def test_sqlite_reads_no_expired_certificate(tmp_path: Path, ask: Any) -> None:
    """By the index on their end, and not in the order of another one over everything."""
    engine = create_engine(f"sqlite:///{tmp_path / 'plan.db'}")
    metadata.create_all(engine)
    with engine.connect() as connection:
        plan = plan_of(connection, ask)
    engine.dispose()

    assert "SEARCH certificates USING INDEX ix_certificates_not_after (not_after>?)" in plan, plan
    assert "SCAN certificates" not in plan, plan
