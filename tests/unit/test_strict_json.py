"""JSON that means the same to everybody."""

from __future__ import annotations

import json

import pytest

from app.strict_json import NestingError, parse_strict_json


@pytest.mark.parametrize("text", ["1", "[]", "{}", '"x"', "[1]", '{"a":{}}', "[[],[]]", '[{"a":[]}]'])
def test_what_is_not_nested_too_deep_is_its_value(text: str) -> None:
    """A scalar, an empty list or object is one level; each list or object around it is one more."""
    expected = json.loads(text)

    assert [expected] * 2 == [parse_strict_json(given, max_nesting=3) for given in (text, text.encode())]


@pytest.mark.parametrize("text", ["[[[1]]]", '{"a":{"b":{"c":[]}}}', '[0,[[{"a":1}]]]', "[" * 100_000 + "]" * 100_000])
def test_what_is_nested_too_deep_is_refused(text: str) -> None:
    """By our bound, or before it by the parser's."""
    with pytest.raises(NestingError):
        parse_strict_json(text, max_nesting=3)


@pytest.mark.parametrize(
    "text",
    ['{"a":1,"a":1}', '[{"b":{"a":1,"a":2}}]', "NaN", "[-Infinity]", "1e400", "[1] [2]", "", "9" * 5_000, b"\xff"],
)
def test_what_two_readers_could_take_differently_is_refused(text: str | bytes) -> None:
    """A name twice, what is no number here, what is no JSON at all."""
    with pytest.raises(ValueError) as caught:
        parse_strict_json(text, max_nesting=3)
    assert not isinstance(caught.value, NestingError)
