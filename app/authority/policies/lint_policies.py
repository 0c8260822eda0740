"""Lint the live set, or what it would be with some documents; nothing is stored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from app.authority.policies.explain_request import Explainer, LoadedSet
from app.authority.ports import Clock
from app.authority.store import Store, Transaction
from app.errors import AppError, ErrorCode
from app.limits import Limits
from app.policy.document import expand_list
from app.policy.lint import lint
from app.policy.ownership import Source
from app.policy.review import Surveyed, review

T = TypeVar("T")


class Linter:
    """Lints one set at a time: it takes seconds for a large one."""

    def __init__(self, store: Store, explainer: Explainer, limits: Limits, clock: Clock) -> None:
        self._store = store
        self._explainer = explainer
        self._limits = limits
        self._clock = clock
        self._lock = asyncio.Lock()

    async def lint(self) -> dict[str, Any]:
        """What only shows in the live set as a whole, with its revision."""
        loaded, known = await self._survey()
        found = await self._aside(lambda: lint(loaded.view, known.workloads, known.sources))
        return {"revision": loaded.revision, "findings": [{"index": None, **finding.to_json()} for finding in found]}

    async def review(self, values: Sequence[Any]) -> dict[str, Any]:
        """What is wrong or doubtful with documents, and what they change in the findings about the live set.

        Raises:
            AppError: `TOO_LARGE` for too many.
        """
        documents = [document for value in values for document in expand_list(value)]
        most = self._limits.policy.max_batch_documents
        if len(documents) > most:
            raise AppError(ErrorCode.TOO_LARGE, f"{len(documents)} documents are more than the {most} of one batch")
        loaded, known = await self._survey()
        found = await self._aside(lambda: review(documents, loaded.view, self._limits.policy, known))
        return {"revision": loaded.revision, "findings": [item.to_json() for item in found]}

    async def _aside(self, work: Callable[[], T]) -> T:
        async with self._lock:
            return await asyncio.to_thread(work)

    async def _survey(self) -> tuple[LoadedSet, Surveyed]:
        loaded = await self._explainer.load(None)

        def work(transaction: Transaction) -> Surveyed:
            workloads: dict[str, list[dict[str, str]]] = {}
            for workload in transaction.inventory.workloads().values():
                workloads.setdefault(workload.namespace, []).append(dict(workload.labels))
            heads = transaction.policies.heads_at(loaded.revision)
            sources = {key: head.source for key, head in heads.items() if head.source != Source.API}
            return Surveyed(workloads or None, sources, self._clock.now())

        return loaded, await self._store.read(work)
