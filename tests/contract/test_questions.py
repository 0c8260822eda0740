"""Questions about many requests, over the live set, old revisions and given documents, over both databases."""

from __future__ import annotations

from typing import Any

import pytest

from app.authority.policies.broad_questions import GivenSet
from app.errors import AppError, ErrorCode
from app.storage.database import Database
from tests.support.administration import ALICE, StandingClock, administration_over, policy

NOW = StandingClock().now()
CART = {"service": "shop/cart", "request": {"protocol": "http"}}


def for_cart(name: str, method: str = "GET") -> dict[str, Any]:
    """A policy that attaches to the service `cart`."""
    document = policy(name, method=method)
    document["spec"]["targetRefs"] = [{"group": "", "kind": "Service", "name": "cart"}]
    return document


def methods(answer: dict[str, Any]) -> set[tuple[str, str]]:
    """What each class says of methods."""
    found = answer["places"][0]["classes"] if "places" in answer else answer["differences"]
    return {(one.get("verdict") or one["change"], one["words"].get("method", "any")) for one in found}


async def test_who_can_is_asked_of_the_live_set_and_of_old_revisions(database: Database) -> None:
    """With the revision that the answer is about."""
    administration = administration_over(database)
    await administration.put_policy(ALICE, for_cart("cart"))
    await administration.put_policy(ALICE, for_cart("cart", method="PUT"), expected="*")
    live = await administration.questions.reach(CART, revision=None, now=NOW)
    old = await administration.questions.reach(CART, revision=1, now=NOW)

    assert (2, {("allow", "PUT"), ("deny", "any but PUT"), ("deny", "any")}) == (live["revision"], methods(live))
    assert (1, {("allow", "GET"), ("deny", "any but GET"), ("deny", "any")}) == (old["revision"], methods(old))


async def test_sets_are_compared(database: Database) -> None:
    """Revisions, the live set, whole sets and changes to one of them."""
    administration = administration_over(database)
    await administration.apply_batch(ALICE, [for_cart("cart"), for_cart("more", method="PUT")])
    await administration.delete_policy(ALICE, ("AuthorizationPolicy", "shop", "more"), expected="*")
    diff = administration.questions.diff

    other = (for_cart("other", method="HEAD"),)
    revisions = await diff(CART, 1, 2, now=NOW)
    whole = await diff(CART, None, GivenSet(other), now=NOW)
    over = await diff(CART, None, GivenSet(other, is_applied=True), now=NOW)
    same = await diff({}, 2, None, now=NOW)

    assert (1, 2, {("allow->deny", "PUT")}) == (revisions["before"], revisions["after"], methods(revisions))
    assert (2, None, {("allow->deny", "GET"), ("deny->allow", "HEAD")}) == (
        whole["before"],
        whole["after"],
        methods(whole),
    )
    assert {("deny->allow", "HEAD")} == methods(over)
    assert [] == same["differences"]


async def test_what_cannot_be_compared_is_said(database: Database) -> None:
    """Unknown revisions and documents that are none."""
    administration = administration_over(database)
    for after, code in (
        (7, ErrorCode.NOT_FOUND),
        (GivenSet((for_cart("a"), for_cart("a"))), ErrorCode.INVALID),
        (GivenSet((7,)), ErrorCode.INVALID),
    ):
        with pytest.raises(AppError) as caught:
            await administration.questions.diff({}, None, after, now=NOW)
        assert code is caught.value.code
