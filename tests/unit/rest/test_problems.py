"""Errors leave the API as problem documents, by one total table."""

from __future__ import annotations

import json
import uuid

import pytest

from app.errors import AppError, ErrorCode, FieldError
from app.rest.problems import MAX_ERRORS, STATUS_OF_CODE, problem_of, problem_response


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_code_has_a_status_and_a_title(code):
    """The table is total over the codes, and each problem names its own."""
    problem = problem_of(AppError(code, "what to do"), str(uuid.UUID(int=1)))

    assert {"type", "title", "status", "code", "detail", "instance"} == set(problem)
    assert 400 <= problem["status"] <= 599
    assert (code.value, "what to do") == (problem["code"], problem["detail"])
    assert problem["type"].startswith("urn:gatehouse:problem:")


def test_the_table_has_no_other_keys():
    """Nothing but codes is in it."""
    assert set(ErrorCode) == set(STATUS_OF_CODE)


def test_field_errors_are_pointers_and_bounded():
    """A document with thousands of faults does not make an answer of megabytes."""
    error = AppError(ErrorCode.INVALID, "bad", errors=tuple(FieldError(f"/{n}", "wrong") for n in range(1_000)))
    problem = problem_of(error, "x")

    assert MAX_ERRORS == len(problem["errors"])
    assert {"pointer": "/0", "message": "wrong"} == problem["errors"][0]


def test_what_only_operators_may_know_does_not_leave():
    """The diagnosis is for the log."""
    response = problem_response(AppError(ErrorCode.UNAUTHENTICATED, "no", diagnosis="expired"), "x")

    assert b"expired" not in response.body
    assert 'Bearer realm="gatehouse"' == response.headers["www-authenticate"]
    assert "application/problem+json" == response.headers["content-type"]


@pytest.mark.parametrize("code", [ErrorCode.OVERLOADED, ErrorCode.UNAVAILABLE, ErrorCode.RATE_LIMITED])
def test_what_passes_says_when_to_try_again(code):
    """Retry-After goes with what is temporary."""
    assert "1" == problem_response(AppError(code, "later"), "x").headers["retry-after"]
    assert "retry-after" not in problem_response(AppError(ErrorCode.INVALID, "no"), "x").headers


def test_the_body_is_json():
    """And says its own status."""
    response = problem_response(AppError(ErrorCode.NOT_FOUND, "none"), "x")

    assert (404, 404) == (response.status_code, json.loads(response.body)["status"])
