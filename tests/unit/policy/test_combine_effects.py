"""The effects of several providers as one: what joins, and what contradicts."""

from __future__ import annotations

from typing import Any

import pytest

from app.policy.combine_effects import combine_effects
from app.policy.effects import NO_EFFECTS, Effects


def _combine(*several: dict[str, Any]) -> Effects | None:
    return combine_effects([Effects(**one) for one in several])


def test_nothing_and_one_stay_what_they_are() -> None:
    """No copy is made, so that an answer without effects stays one."""
    one = Effects(headers=(("x-a", "1"), ("x-a", "2")))
    assert combine_effects([]) is NO_EFFECTS
    assert combine_effects([NO_EFFECTS, NO_EFFECTS]) is NO_EFFECTS
    assert combine_effects([NO_EFFECTS, one, NO_EFFECTS]) is one


def test_different_things_join_in_order() -> None:
    """Headers, removals, parameters, metadata; what both want alike is there once."""
    first = {
        "headers": (("x-a", "1"), ("x-a", "2")),
        "headers_to_remove": ("x-r", "x-s"),
        "response_headers": (("set-cookie", "a=1"),),
        "query_to_set": (("tenant", "shop"),),
        "query_to_remove": ("debug",),
        "metadata": '{"a":1,"same":[1]}',
    }
    second = {
        "headers": (("x-a", "1"), ("x-a", "2"), ("x-b", "3")),
        "headers_to_remove": ("x-s", "x-t"),
        "response_headers": (("set-cookie", "b=2"),),
        "query_to_set": (("page", "1"),),
        "metadata": '{"b":2,"same":[1]}',
    }
    expected = Effects(
        headers=(("x-a", "1"), ("x-a", "2"), ("x-b", "3")),
        headers_to_remove=("x-r", "x-s", "x-t"),
        response_headers=(("set-cookie", "a=1"), ("set-cookie", "b=2")),
        query_to_set=(("tenant", "shop"), ("page", "1")),
        query_to_remove=("debug",),
        metadata='{"a":1,"b":2,"same":[1]}',
    )
    assert expected == _combine(first, second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"headers": (("x-user", "alice"),)}, {"headers": (("x-user", "bob"),)}),
        ({"headers": (("x-user", "alice"),)}, {"headers": (("x-user", "alice"), ("x-user", "bob"))}),
        ({"headers": (("x-user", "alice"),)}, {"headers_to_remove": ("x-user",)}),
        ({"headers_to_remove": ("x-user",)}, {"headers": (("x-user", "alice"),)}),
        ({"response_headers": (("x-tier", "a"),)}, {"response_headers": (("x-tier", "b"),)}),
        ({"query_to_set": (("a", "1"),)}, {"query_to_set": (("a", "2"),)}),
        ({"query_to_set": (("a", "1"),)}, {"query_to_remove": ("a",)}),
        ({"metadata": '{"a":1}'}, {"metadata": '{"a":2}'}),
        ({"metadata": '{"a":1}'}, {"metadata": "[]"}),
        ({"metadata": '{"a":1}'}, {"metadata": "{"}),
        ({"metadata": '{"a":1}'}, {"metadata": '{"b":NaN}'}),
    ],
)
def test_a_contradiction_is_none(first: dict[str, Any], second: dict[str, Any]) -> None:
    """Neither value can be right for the service."""
    assert _combine(first, second) is None
