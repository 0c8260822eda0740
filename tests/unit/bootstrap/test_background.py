"""Tasks that live as long as a context."""

import asyncio

import pytest

from app.bootstrap.background import in_background
from app.errors import AppError, ErrorCode


async def test_tasks_end_with_the_context() -> None:
    """All are cancelled, none is left."""
    before = asyncio.all_tasks()
    async with in_background(asyncio.sleep(3600), asyncio.sleep(3600)):
        assert 2 == len(asyncio.all_tasks() - before)
    assert before == asyncio.all_tasks()


async def test_a_refusal_in_a_task_ends_the_body_and_comes_out_by_itself() -> None:
    """Not in a group, so that the process says its one sentence."""

    async def refuse() -> None:
        raise AppError(ErrorCode.FAILED_PRECONDITION, "the port is taken")

    with pytest.raises(AppError, match="the port is taken"):
        async with in_background(asyncio.sleep(3600), refuse()):
            await asyncio.sleep(3600)


async def test_any_other_failure_comes_out_too() -> None:
    """A bug in a task does not leave half a process."""

    async def fail() -> None:
        raise ValueError("bug")

    with pytest.raises(BaseExceptionGroup):
        async with in_background(fail()):
            await asyncio.sleep(3600)
