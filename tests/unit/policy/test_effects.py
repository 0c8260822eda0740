"""Effects are made of what others said: which of them are carried out, and which stand in the way."""

from __future__ import annotations

from typing import Any

import pytest

from app.limits import EffectLimits
from app.policy.effects import (
    NO_EFFECTS,
    Effects,
    effects_problem,
    other_spellings,
    read_metadata,
    removed_spellings,
    sendable,
)

LIMITS = EffectLimits(max_items=3, max_bytes=200, max_metadata_depth=4)

BAD_HEADERS = [
    ("", "v"),
    ("x user", "v"),
    ("X-User", "v"),  # names are lower case here; Envoy's own would differ from what is compared
    ("x:user", "v"),
    (":path", "/admin"),
    (":authority", "admin"),
    ("host", "admin"),
    ("content-length", "0"),
    ("transfer-encoding", "chunked"),
    ("x-é", "v"),
    ("x-user\n", "v"),
    ("x-user", "alice\r\nx-admin: true"),
    ("x-user", "a\x00b"),
    ("x-user", "\x7f"),
    ("x-user", "\ud800"),
]


def test_plain_effects_have_no_problem() -> None:
    """Names and values as HTTP has them, tabs and text beyond ASCII included."""
    effects = Effects(
        headers=(("x-user", "Zoë\tA"), ("x-empty", "")), query_to_set=(("a b", "ü"),), metadata='{"a":[{"b":1}]}'
    )
    assert ("", effects) == (effects_problem(effects, LIMITS), sendable(effects, LIMITS))


@pytest.mark.parametrize("header", BAD_HEADERS)
def test_a_header_that_http_does_not_allow_stands_in_the_way(header: tuple[str, str]) -> None:
    """Dropping it would leave the client's own header where an upstream looks for ours; a denial drops it."""
    assert effects_problem(Effects(headers=(header,)), LIMITS)
    assert effects_problem(Effects(response_headers=(header,)), LIMITS)
    kept = ("x-fine", "1")
    assert Effects(status=401, headers=(kept,)) == sendable(Effects(status=401, headers=(header, kept)), LIMITS)


@pytest.mark.parametrize(
    "effects",
    [
        {"headers_to_remove": ("host",)},
        {"headers_to_remove": (":path",)},
        {"headers_to_remove": ("x y",)},
        {"query_to_set": (("", "x"),)},
        {"query_to_set": (("a", "\n"),)},
        {"query_to_remove": ("\ud800",)},
        {"metadata": "[]"},
        {"metadata": "{"},
        {"metadata": '{"a":1e999}'},
        {"metadata": '{"a":NaN}'},
        {"metadata": '{"a":[[[[1]]]]}'},
        {"metadata": '{"a":"\\ud800"}'},
        {"metadata": '{"\\u0000":1}'},
        {"headers_to_remove": ("a", "b", "c", "d")},
        {"body": "x" * 201},
    ],
)
def test_what_cannot_be_carried_out_is_said(effects: dict[str, Any]) -> None:
    """Every one of them turns an answer that allows into a denial."""
    assert effects_problem(Effects(**effects), LIMITS)


@pytest.mark.parametrize("status", [-1, 1, 100, 199, 600, 10**9])
def test_a_status_that_ends_nothing_is_the_default_one(status: int) -> None:
    """An informational status would leave the client waiting."""
    assert NO_EFFECTS == sendable(Effects(status=status), LIMITS)


def test_a_denial_without_what_cannot_be_sent_is_still_a_denial() -> None:
    """Body and metadata that cannot be sent go; too much goes as a whole."""
    assert Effects(status=401) == sendable(Effects(status=401, body="\ud800", metadata="[]"), LIMITS)
    assert NO_EFFECTS == sendable(Effects(status=401, body="x" * 201), LIMITS)


def test_our_own_metadata_is_not_theirs_to_write() -> None:
    """The members that say how we decided are left out."""
    assert {"tenant": "shop"} == read_metadata('{"policy":"x","shadow":true,"tenant":"shop"}', LIMITS)


def test_numbers_are_what_a_double_can_hold() -> None:
    """Protobuf's Struct has no other numbers; a longer one would be an exception later."""
    limits = EffectLimits()
    assert {"a": 10**308} == read_metadata('{"a":1' + "0" * 308 + "}", limits)
    assert read_metadata('{"a":1' + "0" * 309 + "}", limits) is None


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/orders", ()),
        ("/orders?", ()),
        ("/orders?tenant=bank", ()),  # overwritten by Envoy
        ("/orders?%74enant=bank&tenant=x&page=2", ("%74enant",)),
        ("/orders?debug&de%62ug=1&debug=2", ("debug", "de%62ug")),
        ("/orders?two+words=1&two%20words=2", ("two+words",)),
        ("/orders?x=%26debug=1", ()),
    ],
)
def test_other_spellings_of_a_parameter_are_taken_out(target: str, expected: tuple[str, ...]) -> None:
    """The service decodes names, Envoy compares bytes: a client's spelling must not stand beside ours."""
    effects = Effects(query_to_set=(("tenant", "shop"), ("two words", "x")), query_to_remove=("debug",))
    assert expected == removed_spellings(effects, target)


@pytest.mark.parametrize(
    ("effects", "sent", "expected"),
    [
        ({"headers": (("x-user", "ann"),)}, ["x-user", "x_user", "x-user-id", "host"], ("x_user",)),
        ({"headers": (("x_user_id", "7"),)}, ["x-user_id", "x-user-id", "x_user_id"], ("x-user-id", "x-user_id")),
        ({"headers_to_remove": ("x-secret",)}, ["x_secret", "x-secret"], ("x-secret", "x_secret")),
        ({"response_headers": (("x-user", "ann"),)}, ["x_user"], ()),
        ({}, ["x_user"], ()),
    ],
)
def test_no_spelling_of_a_header_that_is_set_or_removed_stays(
    effects: dict[str, Any], sent: list[str], expected: tuple[str, ...]
) -> None:
    """To a service behind CGI or WSGI a dash and an underscore are the same."""
    assert expected == other_spellings(Effects(**effects), sent)
