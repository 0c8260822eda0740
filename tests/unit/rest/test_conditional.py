"""Entity tags and preconditions."""

from __future__ import annotations

import pytest

from app.errors import AppError, ErrorCode
from app.rest.conditional import expected_etag, expected_number, is_create_only, is_unchanged, quoted


@pytest.mark.parametrize(
    ("header", "expected"), [(None, None), ("*", "*"), (" * ", "*"), ('"abc"', "abc"), (' "5f1c" ', "5f1c")]
)
def test_if_match(header, expected):
    """One strong entity tag, * or nothing."""
    assert expected == expected_etag(header)


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("abc", ErrorCode.MALFORMED),
        ('"a", "b"', ErrorCode.MALFORMED),
        ('""', ErrorCode.MALFORMED),
        ('"' + "a" * 129 + '"', ErrorCode.MALFORMED),
        ('"a b"', ErrorCode.MALFORMED),
        ("", ErrorCode.MALFORMED),
        ('W/"abc"', ErrorCode.PRECONDITION_FAILED),
    ],
)
def test_if_match_that_cannot_hold(header, code):
    """What is not an entity tag is malformed; a weak one never matches."""
    with pytest.raises(AppError) as caught:
        expected_etag(header)

    assert code == caught.value.code


@pytest.mark.parametrize(("header", "expected"), [(None, None), ("*", None), ('"12"', 12)])
def test_if_match_of_a_number(header, expected):
    """Revisions and generations are their own entity tags."""
    assert expected == expected_number(header, "revision")


@pytest.mark.parametrize("header", ['"-1"', '"1e3"', '"x"', '"٣"', '"' + "9" * 30 + '"'])
def test_if_match_of_another_number(header):
    """No revision has such a tag, so the precondition does not hold."""
    with pytest.raises(AppError) as caught:
        expected_number(header, "revision")

    assert caught.value.code in {ErrorCode.PRECONDITION_FAILED, ErrorCode.MALFORMED}


def test_if_none_match_on_a_write():
    """Only * says something there."""
    assert is_create_only("*")
    assert not is_create_only(None)
    with pytest.raises(AppError):
        is_create_only('"abc"')


@pytest.mark.parametrize(
    ("header", "expected"),
    [(None, False), ('"abc"', True), ('"x", W/"abc"', True), ("*", True), ('"x"', False), ("abc", False)],
)
def test_if_none_match_on_a_read(header, expected):
    """Any tag of the list, weak or strong (RFC 9110 §13.1.2)."""
    assert expected == is_unchanged("abc", header)


def test_quoted():
    """Entity tags stand in quotes."""
    assert ('"abc"', '"12"') == (quoted("abc"), quoted(12))
