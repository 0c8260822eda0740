"""The Grant document: what it must say, and how long it may hold."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from app.errors import AppError, ErrorCode
from app.limits import PolicyLimits
from app.policy.finding import Severity
from app.policy.grant import GrantState
from app.policy.validate import validate
from tests.support.grants import BEGIN, DURING, END, grant, read
from tests.support.policies import LIMITS, document


def _findings(value: dict[str, Any], severity: Severity, now: datetime | None = None) -> list[str]:
    found = validate(document(value), LIMITS, now)
    return [finding.pointer for finding in found if finding.severity is severity]


def test_an_ordinary_grant_has_no_errors_and_reads_as_written() -> None:
    """Whom, what, from when to when, and why."""
    value = grant(operations=[{"methods": ["GET"], "paths": ["/orders/*"]}], ticket="OPS-7")
    found = read(value)

    assert [] == _findings(value, Severity.ERROR, DURING)
    assert ("shop/g", BEGIN, END, "repair of order 7", "OPS-7") == (
        found.full_name,
        found.not_before,
        found.expires_at,
        found.reason,
        found.ticket,
    )
    (rule,) = found.spec.rules
    assert ["/spec/subjects/0/serviceAccounts", "/spec/operations/0/methods", "/spec/operations/0/paths"] == [
        field.pointer for clause in (*rule.sources, *rule.operations) for field in clause if field.values
    ][:1] + sorted(field.pointer for clause in rule.operations for field in clause)


def test_a_grant_holds_from_its_first_moment_until_before_its_last() -> None:
    """By the time that whoever asks passes in."""
    found = read(grant())
    moments = [BEGIN - timedelta(microseconds=1), BEGIN, END - timedelta(microseconds=1), END]

    assert [GrantState.NOT_YET, GrantState.HOLDS, GrantState.HOLDS, GrantState.EXPIRED] == [
        found.state(moment) for moment in moments
    ]


@pytest.mark.parametrize(
    ("spec", "pointer"),
    [
        ({"subjects": []}, "/spec/subjects"),
        ({"subjects": None}, "/spec/subjects"),
        ({"subjects": [{}]}, "/spec/subjects/0"),
        ({"subjects": [{"principals": []}]}, "/spec/subjects/0/principals"),
        ({"subjects": ["shop/web"]}, "/spec/subjects/0"),
        ({"subjects": [{"notPrincipals": ["a"]}]}, "/spec/subjects/0/notPrincipals"),
        ({"subjects": [{"ipBlocks": ["10.0.0.0/8"]}]}, "/spec/subjects/0/ipBlocks"),
        ({"subjects": [{"principals": [7]}]}, "/spec/subjects/0/principals/0"),
        ({"subjects": [{"principals": [""]}]}, "/spec/subjects/0/principals/0"),
        ({"subjects": [{"serviceAccounts": ["a/b/c"]}]}, "/spec/subjects/0/serviceAccounts/0"),
        ({"subjects": [{"serviceAccounts": ["a/b"], "namespaces": ["a"]}]}, "/spec/subjects/0/serviceAccounts"),
        ({"operations": []}, "/spec/operations"),
        ({"operations": {}}, "/spec/operations"),
        ({"operations": [{}]}, "/spec/operations/0"),
        ({"operations": [{"path": ["/a"]}]}, "/spec/operations/0/path"),
        ({"operations": [{"paths": ["/{*}{*}"]}]}, "/spec/operations/0/paths/0"),
        ({"operations": [{"ports": ["x"]}]}, "/spec/operations/0/ports/0"),
        ({"selector": None}, "/spec/targetRefs"),
        ({"selector": {"matchLabels": {"a": "*"}}}, "/spec/selector/matchLabels"),
        ({"targetRefs": [{"kind": "Pod", "name": "a"}]}, "/spec/targetRefs/0/kind"),
        ({"notBefore": None}, "/spec/notBefore"),
        ({"notBefore": "2030-01-31T12:00:00"}, "/spec/notBefore"),
        ({"expiresAt": None}, "/spec/expiresAt"),
        ({"expiresAt": "tomorrow"}, "/spec/expiresAt"),
        ({"expiresAt": "2030-01-31T12:00:00Z"}, "/spec/expiresAt"),
        ({"expiresAt": "2030-03-02T12:00:01Z"}, "/spec/expiresAt"),
        ({"expiresAt": "2030-02-01T12:00:01Z", "breakGlass": True}, "/spec/expiresAt"),
        ({"reason": ""}, "/spec/reason"),
        ({"reason": "a\nb"}, "/spec/reason"),
        ({"reason": None}, "/spec/reason"),
        ({"ticket": 7}, "/spec/ticket"),
        ({"breakGlass": "yes"}, "/spec/breakGlass"),
        ({"overridesDeny": True}, "/spec/overridesDeny"),
        ({"until": "2030-01-31T12:00:00Z"}, "/spec/until"),
        ({"rules": [{}]}, "/spec/rules"),
    ],
)
def test_what_is_wrong_is_an_error_where_it_stands(spec: dict[str, Any], pointer: str) -> None:
    """In the words of the grant, not of the policy that it is read as."""
    assert pointer in _findings(grant(**spec), Severity.ERROR)


def test_the_longest_lives_are_allowed() -> None:
    """Thirty days, and a day for break-glass."""
    for spec in (
        {"expiresAt": "2030-03-02T12:00:00Z"},
        {"expiresAt": "2030-02-01T12:00:00Z", "breakGlass": True, "overridesDeny": True},
    ):
        assert [] == _findings(grant(**spec), Severity.ERROR)


def test_a_lower_bound_does_not_make_a_stored_grant_unreadable() -> None:
    """The bound is asked when it is stored: a worker must not lose its snapshot over it."""
    value = grant(expiresAt="2030-02-20T12:00:00Z")
    low = PolicyLimits(max_grant_seconds=60)

    assert any(finding.severity is Severity.ERROR for finding in validate(document(value), low))
    assert GrantState.HOLDS is read(value).state(DURING)


@pytest.mark.parametrize(
    ("spec", "pointer"),
    [
        ({}, "/spec/operations"),
        ({"subjects": [{"principals": ["*"]}]}, "/spec/subjects/0/principals"),
        ({"subjects": [{"namespaces": ["*"]}]}, "/spec/subjects/0/namespaces"),
        ({"breakGlass": True, "overridesDeny": True}, "/spec/overridesDeny"),
        ({"subjects": [{"principals": ["spiffe://a/ns/b/sa/c"]}]}, "/spec/subjects/0/principals/0"),
    ],
)
def test_doubts_are_said(spec: dict[str, Any], pointer: str) -> None:
    """They keep nothing out."""
    assert pointer in _findings(grant(**spec), Severity.WARNING)


def test_a_grant_that_has_ended_is_said_and_not_refused() -> None:
    """A set that is applied again and again may hold one."""
    assert "/spec/expiresAt" in _findings(grant(), Severity.WARNING, END)
    assert [] == _findings(grant(), Severity.ERROR, END)
    assert "/spec/expiresAt" not in _findings(grant(), Severity.WARNING, DURING)


def test_another_kind_is_no_grant() -> None:
    """The reader is for its own kind."""
    value = {"apiVersion": "gatehouse.dev/v1", "kind": "Mesh", "metadata": {"name": "mesh"}}
    with pytest.raises(AppError) as caught:
        read(value)
    assert ErrorCode.INVALID is caught.value.code
