"""The result of a Rego rule is read as opa-envoy-plugin reads it, and what is no decision denies."""

from __future__ import annotations

from typing import Any

import pytest

from app.limits import EffectLimits
from app.policy.effects import NO_EFFECTS, Effects, effects_problem
from app.policy.rego_result import RegoVerdict, read_result


@pytest.mark.parametrize(
    ("result", "verdict"),
    [
        (True, RegoVerdict(True)),
        (False, RegoVerdict(False)),
        ({"allowed": True}, RegoVerdict(True)),
        ({"allowed": False}, RegoVerdict(False)),
        (
            {"allowed": True, "headers": {"X-User": "ann"}},
            RegoVerdict(True, Effects(headers=(("x-user", "ann"),))),
        ),
        (
            {"allowed": True, "headers": [{"x-a": "1"}, {"x-a": "2", "x-b": ["3", "4"]}]},
            RegoVerdict(True, Effects(headers=(("x-a", "1"), ("x-a", "2"), ("x-b", "3"), ("x-b", "4")))),
        ),
        (
            {"allowed": True, "response_headers_to_add": {"x-seen": "yes"}},
            RegoVerdict(True, Effects(response_headers=(("x-seen", "yes"),))),
        ),
        (
            {"allowed": True, "request_headers_to_remove": ["Authorization", "cookie"]},
            RegoVerdict(True, Effects(headers_to_remove=("authorization", "cookie"))),
        ),
        (
            {"allowed": True, "query_parameters_to_set": {"a": "1"}, "query_parameters_to_remove": ["b"]},
            RegoVerdict(True, Effects(query_to_set=(("a", "1"),), query_to_remove=("b",))),
        ),
        (
            {"allowed": True, "dynamic_metadata": {"b": [1], "a": {"c": None}}},
            RegoVerdict(True, Effects(metadata='{"a":{"c":null},"b":[1]}')),
        ),
        (
            {"allowed": False, "http_status": 401, "body": "who are you?", "headers": {"www-authenticate": "Bearer"}},
            RegoVerdict(False, Effects(status=401, body="who are you?", headers=(("www-authenticate", "Bearer"),))),
        ),
        ({"allowed": False, "http_status": 302.0}, RegoVerdict(False, Effects(status=302))),
        (
            {"allowed": False, "request_headers_to_remove": ["x"], "query_parameters_to_remove": ["y"]},
            RegoVerdict(False),
        ),
        ({"allowed": True, "http_status": 403, "body": "ignored"}, RegoVerdict(True)),
        ({"allowed": True, "reason": "members of the author's own are left alone"}, RegoVerdict(True)),
        ({"allowed": True, "headers": {}, "body": None, "dynamic_metadata": None}, RegoVerdict(True)),
    ],
)
def test_results_that_decide(result: Any, verdict: RegoVerdict) -> None:
    """A boolean, or an object with `allowed` and what else shall happen."""
    assert verdict == read_result(result)


@pytest.mark.parametrize(
    "result",
    [
        None,
        "true",
        1,
        [True],
        {},
        {"allowed": "true"},
        {"allowed": 1},
        {"headers": {"x": "y"}},
        {"allowed": True, "headers": "x: y"},
        {"allowed": True, "headers": [["x", "y"]]},
        {"allowed": True, "headers": {"x": 1}},
        {"allowed": True, "headers": {"x": ["1", 2]}},
        {"allowed": True, "request_headers_to_remove": "cookie"},
        {"allowed": True, "response_headers_to_add": {"x": None}},
        {"allowed": True, "query_parameters_to_set": ["a"]},
        {"allowed": True, "query_parameters_to_remove": [1]},
        {"allowed": True, "dynamic_metadata": "text"},
        {"allowed": True, "dynamic_metadata": {"x": float("inf")}},
        {"allowed": False, "http_status": "403"},
        {"allowed": False, "http_status": True},
        {"allowed": False, "http_status": 99},
        {"allowed": False, "http_status": 600},
        {"allowed": False, "http_status": 403.5},
        {"allowed": False, "http_status": float("nan")},
        {"allowed": False, "http_status": float("inf")},
        {"allowed": False, "body": {"error": "x"}},
    ],
)
def test_what_is_no_decision_denies_with_a_hint_and_does_nothing_else(result: Any) -> None:
    """Where opa-envoy-plugin makes an error of the call, which may fail open, here is a denial."""
    verdict = read_result(result)

    assert (False, NO_EFFECTS) == (verdict.allowed, verdict.effects)
    assert verdict.hint


@pytest.mark.parametrize(
    "result",
    [
        {"allowed": True, "headers": {"x": "a\r\nset-cookie: b"}},
        {"allowed": True, "headers": {"bad name": "a"}},
        {"allowed": True, "headers": {":path": "/admin"}},
        {"allowed": True, "request_headers_to_remove": ["a b"]},
    ],
)
def test_what_http_does_not_allow_is_left_to_the_check_of_effects(result: Any) -> None:
    """Types are right, so it is a verdict; that it cannot be carried out is found for every provider alike."""
    verdict = read_result(result)

    assert verdict.allowed
    assert effects_problem(verdict.effects, EffectLimits())
