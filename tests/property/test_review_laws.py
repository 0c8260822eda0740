"""Laws of looking documents over: whatever is given, findings come out, and what has no error can be stored."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import AppError
from app.policy.finding import Severity
from app.policy.review import review
from tests.support.policies import LIMITS, policy, source, to, when
from tests.support.views import mesh_document, point_document, view

_LEAVES = (
    st.none() | st.booleans() | st.integers(-2, 70_000) | st.sampled_from(["", "*", "a", "/a*", "10.0.0.0/8", "GET"])
)
_JSON = st.recursive(
    _LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["source", "operation", "values", "key", "a"]), inner, max_size=3)
    ),
    max_leaves=6,
)
_DOCUMENTS = (
    policy(
        {**source(principals=["*"]), **to(paths=["/a"]), **when("source.ip", "10.0.0.1")}, selector={"matchLabels": {}}
    ),
    policy({}, action="CUSTOM", provider={"name": "p"}, targetRefs=[{"kind": "Service", "name": "orders"}]),
    mesh_document(trustDomain="a.b", trustDomainAliases=["c"]),
    point_document("w", kind="waypoint", gateway="w"),
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in _places(item, (*path, key)))]


@st.composite
def _mutated(draw: st.DrawFn) -> Any:
    """A document with something else at one place of it."""
    document = copy.deepcopy(draw(st.sampled_from(_DOCUMENTS)))
    *path, last = draw(st.sampled_from(_places(document)[1:]))
    holder: Any = document
    for step in path:
        holder = holder[step]
    holder[last] = draw(_JSON)
    return document


@given(st.lists(_mutated() | _JSON, max_size=3))
@settings(max_examples=150, deadline=None)
def test_looking_over_never_fails_and_keeps_its_word(values: list[Any]) -> None:
    """Every finding points at a document that was given, and a document without an error can be taken into the set."""
    found = review(values, view(), LIMITS)

    assert all(item.index is None or 0 <= item.index < len(values) for item in found)
    bad = {item.index for item in found if item.finding.severity is Severity.ERROR}
    for index, value in enumerate(values):
        if index not in bad:
            try:
                view(value)
            except AppError as error:
                raise AssertionError((value, error.errors)) from error
