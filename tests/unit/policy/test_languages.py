"""Telling patterns apart: every combination that can hold together is found, and no other."""

from __future__ import annotations

import pytest

from app.errors import AppError, ErrorCode
from app.policy.languages import ANY, REST, Languages, Token, chars, string_form


def representatives(*values: str, most: int = 10_000) -> dict[frozenset[int], str]:
    languages = Languages([(REST,)])
    for number, value in enumerate(values):
        languages.add(number, [string_form(value)])
    return languages.representatives(most)


def test_each_combination_has_a_shortest_text() -> None:
    """Prefix, suffix, both, the exact text inside them, and none."""
    assert {
        frozenset(): "",
        frozenset({0}): "a",
        frozenset({1}): "b",
        frozenset({0, 1}): "ab",
        frozenset({0, 1, 2}): "acb",
    } == representatives("a*", "*b", "acb")


def test_a_prefix_that_others_fill_has_no_text_of_its_own() -> None:
    """Nothing is invented: what always holds together is found together only."""
    assert {frozenset(), frozenset({0}), frozenset({0, 1})} == set(representatives("a*", "ab*"))


def test_texts_stay_in_their_domain() -> None:
    """A pattern with characters that the domain does not have is never seen."""
    languages = Languages([(Token(chars("ab"), repeated=True),)])
    languages.add(0, [("ac",)])
    languages.add(1, [("b", REST)])

    assert {frozenset(): "", frozenset({1}): "b"} == languages.representatives(100)


@pytest.mark.parametrize("text", ["/", "/x", "/x/x"])
def test_joined_pieces_are_the_plain_paths(text: str) -> None:
    """Pieces are not empty and do not end in what never ends one."""
    languages = Languages([("/",)], joined=("/", chars("x."), "."))
    languages.add(0, [(text,)])
    languages.add(1, [("/.", REST)])
    languages.add(2, [(REST, "/")])
    languages.add(3, [(REST, ".")])

    found = languages.representatives(1_000)

    assert any(0 in numbers for numbers in found)
    assert "/.x" in found.values()
    assert {frozenset({2}), frozenset({0, 2})} & set(found)
    assert not any(3 in numbers for numbers in found)


def test_too_many_states_are_an_error() -> None:
    """Over the bound there is no answer instead of a part of one."""
    with pytest.raises(AppError, match="max_atom_states") as caught:
        representatives("*abc", "*bcd", "x*", most=5)
    assert ErrorCode.TOO_LARGE is caught.value.code


def test_a_set_of_characters_is_named_or_all_but_named() -> None:
    """Both ways to write one."""
    assert ("a" in chars("ab"), "c" in chars("ab"), "c" in ANY) == (True, False, True)
