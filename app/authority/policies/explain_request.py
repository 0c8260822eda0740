"""Decide one request as a worker would, and say why, over the live set or over an old revision.

The view of the live set is kept and brought up to date when somebody asks; building and asking it happen in a
thread, because a large change is a long computation and issuing must not wait for it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.authority.policies.read_policies import MAX_REVISION
from app.authority.store import Store, Transaction
from app.errors import AppError, ErrorCode
from app.limits import Limits
from app.policy.policy_view import PolicyView
from app.policy.question import answer_question


@dataclass(frozen=True, slots=True)
class LoadedSet:
    """A whole set of documents, compiled, and which revision it is."""

    number: int  # of the snapshot, or of the revision
    revision: int
    view: PolicyView


class Explainer:
    """Keeps a view of the live set, and of the old revision that was asked for last."""

    def __init__(self, store: Store, limits: Limits) -> None:
        self._store = store
        self._limits = limits
        self._lock = asyncio.Lock()
        self._live: LoadedSet | None = None
        self._old: LoadedSet | None = None

    async def explain(self, question: Any, *, revision: int | None, now: datetime) -> dict[str, Any]:
        """The decision and every rule considered, with the revision that it is about.

        Raises:
            AppError: see `Administration.explain`.
        """
        loaded = await self.load(revision)
        answer = await asyncio.to_thread(answer_question, question, loaded.view, now=now)
        return {"revision": loaded.revision, **answer}

    async def load(self, revision: int | None) -> LoadedSet:
        """The live set (None), or the set of a revision with the services of today.

        Raises:
            AppError: `NOT_FOUND` for an unknown revision.
        """
        async with self._lock:
            return await (self._bring_up_to_date() if revision is None else self._load_revision(revision))

    async def _bring_up_to_date(self) -> LoadedSet:
        loaded = self._live
        since = -1 if loaded is None else loaded.number
        delta = await self._store.read(lambda transaction: transaction.read_delta(since))
        if loaded is not None and delta.number == loaded.number:
            return loaded
        view = loaded.view if loaded is not None else PolicyView.empty(self._limits.policy)
        view = await asyncio.to_thread(view.changed, delta.documents, delta.services, self._limits.policy)
        self._live = LoadedSet(delta.number, delta.revision, view)
        return self._live

    async def _load_revision(self, revision: int) -> LoadedSet:
        """The documents of a revision, with the services of today: those have no history."""
        live = await self._bring_up_to_date()
        if revision == live.revision:
            return live
        if self._old is not None and self._old.revision == revision:
            return self._old

        def work(transaction: Transaction) -> dict[str, Any]:
            rows = transaction.policies
            if not 0 <= revision <= MAX_REVISION or rows.find_revision(revision) is None:
                raise AppError(ErrorCode.NOT_FOUND, f"there is no revision {revision}")
            return rows.contents([(key, head.revision) for key, head in rows.heads_at(revision).items()])

        documents = await self._store.read(work)
        empty = PolicyView.empty(self._limits.policy)
        view = await asyncio.to_thread(empty.changed, documents, {}, self._limits.policy)
        self._old = LoadedSet(live.number, revision, view.with_services(live.view.services))
        return self._old
