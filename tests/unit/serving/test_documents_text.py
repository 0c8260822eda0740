"""YAML and JSON text to values: bounded, and without anything that two readers take differently."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from app.errors import AppError, ErrorCode
from app.limits import PolicyLimits
from app.serving.documents_text import TextBounds, parse_documents, parse_json, parse_yaml

BOUNDS = TextBounds(max_bytes=100_000, max_nodes=1_000, max_nesting=32)


def _refused(parse, text: str | bytes, bounds: TextBounds = BOUNDS) -> AppError:
    with pytest.raises(AppError) as caught:
        parse(text.encode() if isinstance(text, str) else text, bounds)
    return caught.value


def test_a_stream_of_documents():
    """Documents come in order, and those that are empty or only comments are left out."""
    text = b"---\n# nothing\n---\na: 1\n---\n- x\n- y: z\n---\n"

    assert [{"a": 1}, ["x", {"y": "z"}]] == parse_yaml(text, BOUNDS)


def test_scalars_as_in_json():
    """Plain words become what they look like; quotes and blocks stay text; timestamps are text."""
    text = (
        b"{a: null, b: ~, c: true, d: False, e: 12, f: -1.5e3, g: '12', h: \"true\", i: 2026-11-23,\n"
        b" j: 2026-11-23T10:00:00Z, k: 12:30, l: 1_000, m: y, n: '', o: , p: 1.2.3, q: 10.0.0.0/8}"
    )
    expected = {
        "a": None, "b": None, "c": True, "d": False, "e": 12, "f": -1500.0, "g": "12", "h": "true",
        "i": "2026-11-23", "j": "2026-11-23T10:00:00Z", "k": "12:30", "l": "1_000", "m": "y", "n": "", "o": None,
        "p": "1.2.3", "q": "10.0.0.0/8",
    }  # fmt: skip

    assert [expected] == parse_yaml(text, BOUNDS)


def test_blocks_and_keys_are_text():
    """Block scalars keep their lines; keys are always strings."""
    assert [{"a": "x\ny\n", "1": 2, "true": 3}] == parse_yaml(b"a: |\n  x\n  y\n1: 2\ntrue: 3\n", BOUNDS)


def test_json_is_json():
    """Values come through as they are; a byte-order mark is skipped."""
    assert {"a": [1, 2.5, None, True, "x"]} == parse_json(b'\xef\xbb\xbf{"a": [1, 2.5, null, true, "x"]}', BOUNDS)


def test_documents_of_either_kind():
    """A JSON array is a list of documents, another JSON value one document, YAML a stream."""
    assert [{"a": 1}, {"b": 2}] == parse_documents(b'[{"a": 1}, {"b": 2}]', is_json=True, bounds=BOUNDS)
    assert [{"a": 1}] == parse_documents(b'{"a": 1}', is_json=True, bounds=BOUNDS)
    assert [{"a": 1}, {"b": 2}] == parse_documents(b"a: 1\n---\nb: 2", is_json=False, bounds=BOUNDS)


def test_case_099_a_key_given_twice_is_refused_with_its_lines():
    """In YAML the line of both is named, and where."""
    error = _refused(parse_yaml, "spec:\n  rules: []\n  action: ALLOW\n  rules: []\n")

    assert ErrorCode.INVALID == error.code
    assert "line 4: the key 'rules' is given twice, first in line 2" in error.detail
    assert "/spec/rules" == error.errors[0].pointer


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '{"x": [{"a": 1, "\\u0061": 2}]}'])
def test_case_099_a_key_given_twice_is_refused_in_json(text):
    """Also when it is written with an escape."""
    error = _refused(parse_json, text)

    assert (ErrorCode.INVALID, True) == (error.code, "'a' is given twice" in error.detail)


def test_case_099_the_same_key_in_other_mappings_is_fine():
    """Only the same mapping counts."""
    assert [{"a": {"a": 1}, "b": [{"a": 1}, {"a": 2}]}] == parse_yaml(b"{a: {a: 1}, b: [{a: 1}, {a: 2}]}", BOUNDS)


def test_case_100_an_anchors_bomb_is_refused_with_flat_memory():
    """Aliases are refused at the first one."""
    text = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(9)
    )
    tracemalloc.start()
    error = _refused(parse_yaml, text)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert (ErrorCode.INVALID, True) == (error.code, "line 1: anchors" in error.detail)
    assert peak < 1_000_000


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['true']",
        "a: !!python/name:os.system x",
        "a: !!str 5",
        "a: ! 5",
        "a: !local {}",
        "a: !!set {x}",
        "a: !!binary aGVsbG8=",
        "%TAG !e! tag:example.com,2026:\n---\na: !e!x 1",
    ],
)
def test_case_100_tags_are_refused(text):
    """No tag is read, not even a harmless one."""
    error = _refused(parse_yaml, text)

    assert (ErrorCode.INVALID, True) == (error.code, "tags are not read" in error.detail)


@pytest.mark.parametrize("text", ["a: *x", "<<: {a: 1}", "a: &x 1"])
def test_case_100_aliases_anchors_and_merges_are_refused(text):
    """Each by itself."""
    assert _refused(parse_yaml, text).code in {ErrorCode.INVALID, ErrorCode.MALFORMED}


@pytest.mark.parametrize("word", ["no", "Yes", "ON", "off", "0123", "0x1F", "0o17", ".inf", "-.INF", ".NaN"])
def test_words_that_readers_take_differently_are_refused(word):
    """The sentence says what to do, and in quotes they are text."""
    assert "put it in quotes" in _refused(parse_yaml, f"a:\n  - {word}\n").detail
    assert [{"a": word}] == parse_yaml(f"a: '{word}'".encode(), BOUNDS)


@pytest.mark.parametrize(
    "text", ["a: [1, 2", "a: b: c", "\tx: 1", "a: 'x", "- a\nb: 1", "a: \x07", "{a: 1}}", "%YAML 3.0\n--- a"]
)
def test_broken_yaml_is_malformed(text):
    """A syntax error is told apart from text that is not acceptable."""
    assert ErrorCode.MALFORMED == _refused(parse_yaml, text).code


@pytest.mark.parametrize("text", ["", "{", "{'a': 1}", "[1,]", "NaN", "[Infinity]", "1 2", '"\x01"', b"\xff\xfe{}"])
def test_broken_json_is_malformed(text):
    """What RFC 8259 does not know is refused, what Python's parser would add included."""
    assert ErrorCode.MALFORMED == _refused(parse_json, text).code


def test_a_syntax_error_names_its_line():
    """The line is where the reader should look."""
    assert "line 3" in _refused(parse_yaml, "a: 1\nb: 2\nc: [1\n d").detail
    assert "line 2" in _refused(parse_json, '{"a": 1,\n  b: 2}').detail


def test_keys_must_be_text():
    """A mapping or list cannot be a key."""
    assert "a key must be" in _refused(parse_yaml, "? [a]\n: b\n").detail


@pytest.mark.parametrize(("parse", "text"), [(parse_yaml, "x" * 100_001), (parse_json, '"' + "x" * 100_000 + '"')])
def test_too_many_bytes(parse, text):
    """The size is bounded before anything is read."""
    assert ErrorCode.TOO_LARGE == _refused(parse, text).code


@pytest.mark.parametrize(
    ("parse", "text"), [(parse_yaml, "[" + "1," * 1_000 + "1]"), (parse_json, "[" + "1," * 1_000 + "1]")]
)
def test_too_many_values(parse, text):
    """So is the number of values."""
    assert ErrorCode.TOO_LARGE == _refused(parse, text).code


@pytest.mark.parametrize("parse", [parse_yaml, parse_json])
@pytest.mark.parametrize("levels", [33, 49_000])
def test_too_deep(parse, levels):
    """And the nesting, quickly, however deep it is."""
    started = time.process_time()
    error = _refused(parse, "[" * levels + "]" * levels)

    assert (ErrorCode.INVALID, True) == (error.code, "deeper than 32 levels" in error.detail)
    assert time.process_time() - started < 5.0


@pytest.mark.parametrize("parse", [parse_yaml, parse_json])
def test_the_deepest_that_is_read(parse):
    """The bound itself is allowed."""
    value = parse(b"[" * 32 + b"]" * 32, BOUNDS)

    assert isinstance(value, list)


@pytest.mark.parametrize(("parse", "text"), [(parse_json, "1e400"), (parse_yaml, "1e400"), (parse_yaml, "1" * 100)])
def test_numbers_beyond_reach(parse, text):
    """A number that no float can hold is refused."""
    assert ErrorCode.INVALID == _refused(parse, f"[{text}]").code


def test_a_json_integer_with_thousands_of_digits():
    """Python's own bound is an answer, not an exception."""
    assert ErrorCode.INVALID == _refused(parse_json, "[" + "1" * 5_000 + "]").code


def test_bounds_come_from_the_limits():
    """The named limits are the bounds."""
    bounds = TextBounds.of(PolicyLimits(max_nesting=3, max_yaml_nodes=7), max_bytes=11)

    assert (11, 7, 3) == (bounds.max_bytes, bounds.max_nodes, bounds.max_nesting)
