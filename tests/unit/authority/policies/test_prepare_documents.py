"""Many documents are prepared without keeping others from their work."""

from __future__ import annotations

import asyncio

import pytest

from app.authority.policies.prepare_documents import prepare, prepare_many
from app.errors import AppError
from app.limits import Limits
from tests.support.administration import StandingClock, policy

LIMITS = Limits()
NOW = StandingClock().now()


async def test_others_have_their_turn_after_each_document() -> None:
    """However many there are: once when it is parsed, and once when it is compiled."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.create_task(count())
    await prepare_many([policy(f"p{number}") for number in range(50)], None, LIMITS, NOW)
    counting.cancel()

    assert turns >= 99  # the first of them starts the count


async def test_a_batch_is_prepared_as_each_document_by_itself() -> None:
    """The same documents and warnings; errors have the place in the batch in front."""
    documents = [policy("a"), policy("b", method="PUT")]
    bad = {**policy("c"), "spec": {"nonsense": 1}}

    assert tuple(prepare(one, None, LIMITS, NOW) for one in documents) == await prepare_many(
        documents, None, LIMITS, NOW
    )
    with pytest.raises(AppError) as alone:
        prepare(bad, None, LIMITS, NOW)
    with pytest.raises(AppError) as among:
        await prepare_many([*documents, bad], None, LIMITS, NOW)
    assert [f"/2{one.pointer}" for one in alone.value.errors] == [one.pointer for one in among.value.errors]
