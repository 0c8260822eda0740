"""Text of strangers: whatever the bytes, a value or an `AppError`; and what is a value means what it says."""

from __future__ import annotations

import contextlib
import json
import math

import yaml
from hypothesis import given
from hypothesis import strategies as st

from app.errors import AppError
from app.serving.documents_text import TextBounds, parse_json, parse_yaml

BOUNDS = TextBounds(max_bytes=10_000, max_nodes=500, max_nesting=16)
_WORDS = st.sampled_from(
    ["yes", "no", "0123", "1e400", ".inf", "~", "<<", "*a", "&a x", "!!str x", "- ", "{", "}", "[", "]", "|", ">", "%"]
)
_PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FFF, exclude_categories=("Cs", "Cc", "Cn", "Co")))
_SCALARS = (
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.floats(allow_nan=False, allow_infinity=False)
    | _PRINTABLE | _WORDS
)  # fmt: skip
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_PRINTABLE | _WORDS, inner, max_size=4),
    max_leaves=20,
)
_YAML_PIECES = st.lists(
    _WORDS | st.sampled_from(["a: ", "\n", "  ", "'", '"', "? ", ": ", "---\n", "...\n", "# x\n", "\t", ","]),
    max_size=30,
).map("".join)


@given(st.binary(max_size=300) | _YAML_PIECES.map(str.encode))
def test_whatever_the_bytes_there_is_a_value_or_an_app_error(data):
    """No other exception leaves, and what leaves is JSON."""
    for parse in (parse_json, parse_yaml):
        with contextlib.suppress(AppError):
            json.dumps(parse(data, BOUNDS), allow_nan=False)


@given(_VALUES)
def test_json_comes_through_as_it_is(value):
    """JSON text means what Python's own reader says it means."""
    with contextlib.suppress(AppError):  # larger or deeper than the bounds
        assert value == parse_json(json.dumps(value).encode(), BOUNDS)


@given(_VALUES)
def test_yaml_agrees_with_other_readers(value):
    """What another library writes with quotes where they are needed is read as what it was."""
    text = yaml.safe_dump(value, allow_unicode=True)
    try:
        documents = parse_yaml(text.encode(), BOUNDS)
    except AppError:
        return
    found = documents[0] if documents else None

    assert _same(value, found), text


@given(_YAML_PIECES)
def test_what_is_read_is_what_a_yaml_1_1_reader_reads(text):
    """Where both readers take a text, they see the same structure in it."""
    try:
        documents = parse_yaml(text.encode(), BOUNDS)
        theirs = list(yaml.load_all(text, Loader=yaml.CBaseLoader))
    except (AppError, yaml.YAMLError):
        return

    # A document that is one word may be nothing to one of them; what has structure has the same to both.
    assert [_as_text(document) for document in documents if isinstance(document, dict | list)] == [
        _as_text(document) for document in theirs if isinstance(document, dict | list)
    ]


def _as_text(value):
    """Only the structure, and whether a scalar is there: the base loader resolves nothing."""
    if isinstance(value, dict):
        return {str(key): _as_text(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_as_text(each) for each in value]
    return "scalar"


def _same(one, other) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float) or isinstance(other, float):
        return math.isclose(float(one), float(other), rel_tol=1e-9)
    return type(one) is type(other) and one == other
