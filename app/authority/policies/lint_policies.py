"""Lint the live set, or what it would be with some documents; nothing is stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.authority.policies.set_sources import LiveSet, see_owners
from app.authority.ports import Aside, Clock
from app.authority.store import Store, Transaction
from app.errors import AppError, ErrorCode
from app.limits import Limits
from app.policy.document import expand_list
from app.policy.set_work import LINT, REVIEW


class Linter:
    """Lints with `Aside`: it takes seconds for a large set."""

    def __init__(self, store: Store, aside: Aside, limits: Limits, clock: Clock) -> None:
        self._store = store
        self._aside = aside
        self._limits = limits
        self._clock = clock

    async def lint(self) -> dict[str, Any]:
        """What only shows in the live set as a whole, with its revision.

        Raises:
            AppError: as `Aside`.
        """
        live = LiveSet(self._store, _survey)
        found = await self._aside.run(LINT, [live], lambda: live.seen)
        return {"revision": live.revision, "findings": [{"index": None, **finding} for finding in found]}

    async def review(self, values: Sequence[Any]) -> dict[str, Any]:
        """What is wrong or doubtful with documents, and what they change in the findings about the live set.

        Raises:
            AppError: `TOO_LARGE` for too many; as `Aside`.
        """
        documents = [document for value in values for document in expand_list(value)]
        most = self._limits.policy.max_batch_documents
        if len(documents) > most:
            raise AppError(ErrorCode.TOO_LARGE, f"{len(documents)} documents are more than the {most} of one batch")
        live, now = LiveSet(self._store, _survey), self._clock.now().isoformat()
        found = await self._aside.run(REVIEW, [live], lambda: {**live.seen, "now": now}, documents)
        return {"revision": live.revision, "findings": found}


def _survey(transaction: Transaction, revision: int) -> dict[str, Any]:
    """Who owns what, and the labels that workloads of each namespace have, each set of labels once."""
    workloads: dict[str, dict[tuple[tuple[str, str], ...], None]] = {}
    for workload in transaction.inventory.workloads().values():
        workloads.setdefault(workload.namespace, {})[tuple(sorted(workload.labels))] = None
    labels = {namespace: [dict(each) for each in found] for namespace, found in workloads.items()}
    return {"sources": see_owners(transaction, revision), "workloads": labels or None}
