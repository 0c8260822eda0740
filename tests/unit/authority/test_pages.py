"""Page sizes and page tokens."""

from __future__ import annotations

import base64

import pytest

from app.authority.pages import make_page_token, page_size_within, read_page_token
from app.errors import AppError, ErrorCode

KEY = b"k" * 32


def test_a_token_gives_back_where_it_was_made() -> None:
    """For the same question and the same key."""
    token = make_page_token(KEY, "policies::shop", "AuthorizationPolicy/shop/a")
    assert "AuthorizationPolicy/shop/a" == read_page_token(KEY, "policies::shop", token)
    assert "" == read_page_token(KEY, "policies::shop", "")


def test_case_111_a_token_is_good_for_nothing_else() -> None:
    """Another question, another key, other bytes: all INVALID."""
    token = make_page_token(KEY, "ab", "c")
    for key, question, text in (
        (KEY, "a", token),
        (KEY, "abc", token),
        (b"other", "ab", token),
        (KEY, "ab", token[:-1]),
        (KEY, "ab", token + "A"),
        (KEY, "ab", base64.urlsafe_b64encode(b"\x00" * 17).decode()),
        (KEY, "ab", "ä"),
        (KEY, "ab", "%"),
    ):
        with pytest.raises(AppError) as caught:
            read_page_token(key, question, text)
        assert ErrorCode.INVALID is caught.value.code


def test_case_111_page_sizes_are_bounded() -> None:
    """0 is the default, and the default is never above the bound."""
    assert (100, 20, 1, 1_000) == (
        page_size_within(0, 1_000),
        page_size_within(0, 20),
        page_size_within(1, 1_000),
        page_size_within(1_000, 1_000),
    )
    for size in (-1, 1_001, 10**9, -(10**9)):
        with pytest.raises(AppError) as caught:
            page_size_within(size, 1_000)
        assert ErrorCode.INVALID is caught.value.code
