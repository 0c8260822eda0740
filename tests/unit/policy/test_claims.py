"""Claims of verified tokens, and dynamic metadata."""

from __future__ import annotations

from typing import Any

import pytest

from app.policy.claims import claim_names, claim_test, in_brackets, metadata_key, metadata_test, request_principal_test
from app.policy.request import Request


@pytest.mark.parametrize(
    ("value", "claims", "expected"),
    [
        ("*", {"iss": "i", "sub": "s"}, True),
        ("*", {"iss": "i"}, False),
        ("*", {"iss": "", "sub": "s"}, False),
        ("i/s", {"iss": "i", "sub": "s"}, True),
        ("https://i/x/s", {"iss": "https://i/x", "sub": "s"}, True),
        ("https://i/x/s", {"iss": "https://i", "sub": "x/s"}, False),
        ("i/*", {"iss": "i", "sub": "s"}, True),
        ("i/*", {"iss": "i", "sub": ""}, False),
        ("i/s*", {"iss": "i", "sub": "sx"}, True),
        ("*/s", {"iss": "i", "sub": "s"}, True),
        ("*/s", {"iss": "i", "sub": "xs"}, False),
        ("*i/s", {"iss": "xi", "sub": "s"}, True),
        ("*s", {"iss": "i", "sub": "xs"}, True),
        ("i*", {"iss": "ix", "sub": "s"}, True),
        ("i", {"iss": "i", "sub": ""}, True),
        ("i", {"iss": "i", "sub": "s"}, False),
        ("i/s", {"iss": ["i"], "sub": "s"}, False),
        ("i/s", {"iss": "i", "sub": 7}, False),
        ("*", None, False),
    ],
)
def test_request_principals(value: str, claims: dict[str, Any] | None, expected: bool) -> None:
    """A value is split at its last slash; without a token nothing matches."""
    assert expected is request_principal_test([value])(Request(claims=claims))


@pytest.mark.parametrize(
    ("path", "value", "claims", "expected"),
    [
        (["a"], "x", {"a": "x"}, True),
        (["a"], "x", {"a": ["y", "x"]}, True),
        (["a"], "x", {"a": "x y"}, False),
        (["scope"], "x", {"scope": "y x"}, True),
        (["scope"], "y x", {"scope": "y x"}, False),
        (["permission"], "x", {"permission": "x"}, True),
        (["own"], "x", {"own": "y x"}, True),
        (["a", "b"], "x", {"a": {"b": "x"}}, True),
        (["a", "scope"], "x", {"a": {"scope": "y x"}}, False),
        (["a", "b"], "x", {"a": "x"}, False),
        (["a", "b"], "x", {"a.b": "x"}, False),
        (["a.b"], "x", {"a.b": "x"}, True),
        (["a"], "1", {"a": 1}, False),
        (["a"], "True", {"a": [True, None, {}]}, False),
        (["a"], "*", {"a": ""}, False),
        (["a"], "*", {}, False),
        (["a"], "x", None, False),
    ],
)
def test_claims(path: list[str], value: str, claims: dict[str, Any] | None, expected: bool) -> None:
    """Strings and lists with strings; scope, permission and what the issuer says are split at spaces."""
    request = Request(claims=claims, space_delimited_claims=frozenset({"own"}))

    assert expected is claim_test(path, [value])(request)


@pytest.mark.parametrize(
    ("value", "metadata", "expected"),
    [
        ("v", {"f": {"k": "v"}}, True),
        ("v*", {"f": {"k": "vx"}}, True),
        ("v", {"f": {"k": ["v"]}}, False),
        ("[v]", {"f": {"k": ["u", "v"]}}, True),
        ("[v]", {"f": {"k": "v"}}, False),
        ("v", {"f": "v"}, False),
        ("v", {}, False),
        ("v", None, False),
    ],
)
def test_metadata(value: str, metadata: dict[str, Any] | None, expected: bool) -> None:
    """`[v]` wants a list with v, `v` wants the string."""
    assert expected is metadata_test("f", "k", [value])(Request(dynamic_metadata=metadata))


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("p[a]", ["a"]),
        ("p[a][b.c]", ["a", "b.c"]),
        ("p", None),
        ("p[]", None),
        ("p[a", None),
        ("p[a]b", None),
        ("p[a][]", None),
        ("q[a]", None),
        ("p[[a]]", ["[a]"]),
        ("p[a[0]]", ["a[0]"]),
        ("p[a][b]c]", ["a][b]c"]),
        ("p[https://example.com/roles]", ["https://example.com/roles"]),
    ],
)
def test_names_of_claims(key: str, expected: list[str] | None) -> None:
    """Every name is in brackets of its own, and none is empty; other brackets belong to the name of one claim."""
    assert expected == claim_names(key, "p")


@pytest.mark.parametrize(
    ("key", "expected"), [("p[a]", "a"), ("p[a][b]", "a][b"), ("p[]", None), ("p[a]b", None), ("q[a]", None)]
)
def test_what_stands_in_brackets(key: str, expected: str | None) -> None:
    """The name of a header is all that stands between the first and the last bracket."""
    assert expected == in_brackets(key, "p")


def test_metadata_keys() -> None:
    """The filter's name is what stands before the bracket."""
    assert ("envoy.filters.a.b", "c.d") == metadata_key("experimental.envoy.filters.a.b[c.d]")
    assert metadata_key("experimental.envoy.filters.a") is None
    assert metadata_key("experimental.envoy.filters.a[]") is None
