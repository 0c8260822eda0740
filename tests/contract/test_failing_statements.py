"""Every single statement of a write may fail: then nothing of it is stored, and the next write is as if nothing was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from app.errors import ErrorCode
from app.storage.database import Database
from tests.contract.conftest import make_entry
from tests.support.administration import ALICE, acts, administration_over, key, policy, refused


class Failing:
    """Lets the n-th statement of the writer fail once, and counts the statements."""

    def __init__(self, position: int) -> None:
        self.position = position
        self.seen = 0

    def __call__(self, _connection: object, _cursor: object, statement: str, *_: object) -> None:
        self.seen += 1
        if self.seen == self.position:
            raise OperationalError(statement, None, Exception("injected"))


@contextmanager
def failing_statement(database: Database, position: int) -> Iterator[Failing]:
    failing = Failing(position)
    event.listen(database._engines.writer, "before_cursor_execute", failing)
    try:
        yield failing
    finally:
        event.remove(database._engines.writer, "before_cursor_execute", failing)


async def count_statements(database: Database, write: object) -> int:
    with failing_statement(database, 0) as counting:
        await write  # type: ignore[misc]
    return counting.seen


async def test_an_append_whose_statement_fails_is_not_acknowledged(database: Database) -> None:
    """R3 for the ledger: UNAVAILABLE, no entry, no gap, and readiness recovers with the next commit."""
    statements = await count_statements(database, database.append(make_entry("0")))
    assert statements >= 2
    for position in range(1, statements + 1):
        with failing_statement(database, position):
            error = await refused(database.append(make_entry("lost")))
        assert ErrorCode.UNAVAILABLE is error.code
        await database.append(make_entry(str(position)))
        assert database.health().ok
    stored = await acts(database)
    assert [str(number) for number in range(statements + 1)] == [entry["subject"] for entry in stored]


async def test_a_policy_whose_statement_fails_leaves_no_trace(database: Database) -> None:
    """R3 for administration: document, revision, snapshot number and ledger entry are stored together or not at all."""
    administration = administration_over(database)
    statements = await count_statements(database, administration.put_policy(ALICE, policy("first")))
    assert statements >= 10
    before = await administration.status()
    for position in range(1, statements + 1):
        with failing_statement(database, position):
            error = await refused(administration.put_policy(ALICE, policy("next")))
        assert ErrorCode.UNAVAILABLE is error.code
        assert ErrorCode.NOT_FOUND is (await refused(administration.get_policy(key("next")))).code
        assert before == await administration.status()
    change = await administration.put_policy(ALICE, policy("next"))
    assert (before.revision + 1, before.snapshot_number + 1) == (change.revision.number, change.number)
    assert ["first", "next"] == [entry["subject"].rpartition("/")[2] for entry in await acts(database)]


async def test_a_failed_commit_of_a_policy_leaves_no_trace(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for COMMIT itself."""
    administration = administration_over(database)
    dialect = database._engines.writer.dialect

    def failing(_connection: object) -> None:
        raise dialect.loaded_dbapi.OperationalError("commit failed")

    with monkeypatch.context() as patch:
        patch.setattr(dialect, "do_commit", failing)
        error = await refused(administration.put_policy(ALICE, policy()))
    assert ErrorCode.UNAVAILABLE is error.code
    assert 1 == (await administration.put_policy(ALICE, policy())).revision.number
    assert 1 == len(await acts(database))
