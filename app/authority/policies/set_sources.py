"""Sets of documents for `Aside`: the live one, and those of old revisions, read when a question has its turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from app.authority.policies.read_policies import MAX_REVISION
from app.authority.ports import SnapshotDelta
from app.authority.store import Store, Transaction
from app.errors import AppError, ErrorCode
from app.policy.ownership import Source

Look = Callable[[Transaction, int], Any]


def see_nothing(_: Transaction, __: int) -> None:
    """For questions about nothing but documents and services."""


def see_owners(transaction: Transaction, revision: int) -> dict[str, str]:
    """Who owns the documents of a revision, by key; those of the API are left out."""
    heads = transaction.policies.heads_at(revision)
    return {key: head.source for key, head in heads.items() if head.source != Source.API}


class LiveSet:
    """The live set. After it was read, `revision` and `seen`, what `look` saw in the same transaction, belong to it."""

    name = "live"

    def __init__(self, store: Store, look: Look = see_nothing) -> None:
        self._store = store
        self._look = look
        self.revision = -1
        self.seen: Any = None

    async def since(self, number: int) -> SnapshotDelta:
        """As `SetSource`."""

        def work(transaction: Transaction) -> tuple[SnapshotDelta, Any]:
            delta = transaction.read_delta(number)
            return delta, self._look(transaction, delta.revision)

        delta, self.seen = await self._store.read(work)
        self.revision = delta.revision
        return delta


class RevisionSet:
    """The documents of a revision; services have no history."""

    def __init__(self, store: Store, revision: int, look: Look = see_nothing) -> None:
        self._store = store
        self._look = look
        self.revision = revision
        self.seen: Any = None

    @property
    def name(self) -> str:
        """As `SetSource`."""
        return f"revision {self.revision}"

    async def since(self, number: int) -> SnapshotDelta:
        """As `SetSource`; a revision never changes."""
        documents, self.seen = await self._store.read(lambda transaction: self._read(transaction, number))
        return SnapshotDelta(self.revision, self.revision, 0, documents)

    def _read(self, transaction: Transaction, number: int) -> tuple[dict[str, Any], Any]:
        rows, revision = transaction.policies, self.revision
        if not 0 <= revision <= MAX_REVISION or rows.find_revision(revision) is None:
            raise AppError(ErrorCode.NOT_FOUND, f"there is no revision {revision}")
        seen = self._look(transaction, revision)
        if number == revision:
            return {}, seen
        return rows.contents([(key, head.revision) for key, head in rows.heads_at(revision).items()]), seen
