"""Who can, what can and what differs, over the live set, old revisions and given documents.

These questions take long. They are answered in a thread, one at a time and within the bounds of `limits.policy`, so
that they leave the processor to others.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.authority.policies.explain_request import Explainer
from app.errors import AppError, ErrorCode
from app.limits import Limits
from app.policy.broad_question import answer_diff, answer_reach
from app.policy.policy_view import PolicyView, view_of_documents

Revision = int | None  # None: the live set


@dataclass(frozen=True, slots=True)
class GivenSet:
    """Documents that come with a question: a whole set, or what would be applied to a stored one."""

    documents: tuple[Any, ...]
    is_applied: bool = False
    over: Revision = None


class BroadQuestions:
    """Answers questions about all requests at once."""

    def __init__(self, sets: Explainer, limits: Limits) -> None:
        self._sets = sets
        self._limits = limits.policy
        self._turns = asyncio.Lock()
        self._waiting = 0

    async def reach(self, question: Any, *, revision: Revision, now: datetime) -> dict[str, Any]:
        """Who can send the requests that the question describes, and what they can reach.

        Raises:
            AppError: see `answer_reach`; `NOT_FOUND` for an unknown revision; `OVERLOADED` while several such
                questions wait for their answer.
        """
        async with self._turn():
            loaded = await self._sets.load(revision)
            answer = await asyncio.to_thread(answer_reach, question, loaded.view, now=now)
        return {"revision": loaded.revision, **answer}

    async def diff(
        self, question: Any, before: Revision | GivenSet, after: Revision | GivenSet, *, now: datetime
    ) -> dict[str, Any]:
        """Which requests two sets decide otherwise; the revision of a given set is None.

        Raises:
            AppError: as `reach`; `INVALID` for documents that are not acceptable.
        """
        async with self._turn():
            first, then = await self._load(before), await self._load(after)
            answer = await asyncio.to_thread(answer_diff, question, first[1], then[1], now=now)
        return {"before": first[0], "after": then[0], **answer}

    async def _load(self, side: Revision | GivenSet) -> tuple[Revision, PolicyView]:
        if not isinstance(side, GivenSet):
            loaded = await self._sets.load(side)
            return loaded.revision, loaded.view
        stored = (await self._sets.load(side.over)).view
        over = stored if side.is_applied else None
        view = await asyncio.to_thread(view_of_documents, side.documents, over, self._limits)
        return None, view.with_services(stored.services)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        if self._waiting > self._limits.max_waiting_questions:
            raise AppError(ErrorCode.OVERLOADED, "other questions of this size wait for their answer; ask again later")
        self._waiting += 1
        try:
            async with self._turns:
                yield
        finally:
            self._waiting -= 1
