"""Who can, what can and what differs, over the live set, old revisions and given documents.

These questions take long; `Aside` answers them, one at a time and within the bounds of `limits.policy`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.authority.policies.set_sources import LiveSet, RevisionSet
from app.authority.ports import Aside
from app.authority.store import Store
from app.policy.set_work import DIFF, REACH

Revision = int | None  # None: the live set


@dataclass(frozen=True, slots=True)
class GivenSet:
    """Documents that come with a question: a whole set, or what would be applied to a stored one."""

    documents: tuple[Any, ...]
    is_applied: bool = False
    over: Revision = None


class BroadQuestions:
    """Answers questions about all requests at once."""

    def __init__(self, store: Store, aside: Aside) -> None:
        self._store = store
        self._aside = aside

    async def reach(self, question: Any, *, revision: Revision, now: datetime) -> dict[str, Any]:
        """Who can send the requests that the question describes, and what they can reach.

        Raises:
            AppError: see `answer_reach`; `NOT_FOUND` for an unknown revision; as `Aside`.
        """
        sets = _Sets(self._store)
        index = sets.index(revision)
        argument = {"question": question, "set": index, "now": now.isoformat()}
        answer = await self._aside.run(REACH, sets.sources, lambda: argument)
        return {"revision": sets.sources[index].revision, **answer}

    async def diff(
        self, question: Any, before: Revision | GivenSet, after: Revision | GivenSet, *, now: datetime
    ) -> dict[str, Any]:
        """Which requests two sets decide otherwise; the revision of a given set is None.

        Raises:
            AppError: as `reach`; `INVALID` for documents that are not acceptable.
        """
        sets, documents = _Sets(self._store), list[Any]()
        sides = [sets.side(side, documents) for side in (before, after)]
        argument = {"question": question, "sides": sides, "now": now.isoformat()}
        answer = await self._aside.run(DIFF, sets.sources, lambda: argument, documents)
        first, then = (None if side["given"] else sets.sources[side["set"]].revision for side in sides)
        return {"before": first, "after": then, **answer}


class _Sets:
    """The stored sets that a question is about; the live one always, for its services."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.sources: list[LiveSet | RevisionSet] = [LiveSet(store)]
        self._indices: dict[Revision, int] = {None: 0}

    def index(self, revision: Revision) -> int:
        if revision not in self._indices:
            self._indices[revision] = len(self.sources)
            self.sources.append(RevisionSet(self._store, revision or 0))
        return self._indices[revision]

    def side(self, side: Revision | GivenSet, documents: list[Any]) -> dict[str, Any]:
        """One side of a comparison; documents that come with it are put behind `documents`."""
        if not isinstance(side, GivenSet):
            return {"set": self.index(side), "given": None}
        first = len(documents)
        documents.extend(side.documents)
        return {"set": self.index(side.over), "given": [first, len(documents)], "applied": side.is_applied}
