"""Tasks that live as long as a context."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from app.errors import AppError


@asynccontextmanager
async def in_background(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run `work` beside the body; when one fails the body is cancelled, when the body ends all are.

    Raises:
        AppError: the first that a task raised, by itself instead of in a group.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
            yield
            for task in tasks:
                task.cancel()
    except BaseExceptionGroup as failures:
        refusals = failures.subgroup(AppError)
        if refusals is None:
            raise
        raise _first(refusals) from failures


def _first(group: BaseExceptionGroup[AppError]) -> AppError:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
