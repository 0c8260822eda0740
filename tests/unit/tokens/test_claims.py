"""The registered claims, at their edges."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from app.errors import AppError, ErrorCode
from app.tokens.claims import check_registered_claims, parse_claims

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
SECONDS = int(NOW.timestamp())
GOOD: dict[str, Any] = {
    "iss": "https://i",
    "aud": ["istio-ca", "x"],
    "exp": SECONDS + 60,
    "iat": SECONDS,
    "nbf": SECONDS,
}


def check(**changes: Any) -> datetime:
    claims = {name: value for name, value in (GOOD | changes).items() if value is not None}
    return check_registered_claims(
        claims, issuer="https://i", audiences=frozenset({"istio-ca"}), now=NOW, leeway_seconds=10
    )


def test_good_claims_give_the_moment_when_the_token_ends() -> None:
    """Leeway is not part of it."""
    assert check() == datetime.fromtimestamp(SECONDS + 60, UTC)


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "istio-ca"},
        {"exp": SECONDS - 9},
        {"nbf": SECONDS + 10},
        {"iat": SECONDS + 10},
        {"nbf": None},
        {"exp": SECONDS + 60.5},
    ],
)
def test_within_the_leeway_and_in_other_forms_claims_hold(changes: dict[str, Any]) -> None:
    """Clocks differ a little; an audience may be one text; nbf is optional."""
    assert check(**changes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"iss": "https://j"}, "issuer"),
        ({"iss": "https://i/"}, "issuer"),
        ({"iss": ["https://i"]}, "issuer"),
        ({"iss": None}, "issuer"),
        ({"aud": "istio"}, "audience"),
        ({"aud": []}, "audience"),
        ({"aud": ["istio-ca", 7]}, "audience"),
        ({"aud": {"istio-ca": 1}}, "audience"),
        ({"aud": None}, "audience"),
        ({"exp": SECONDS - 10}, "expired"),
        ({"exp": None}, "claims"),
        ({"iat": None}, "claims"),
        ({"exp": "1e9"}, "claims"),
        ({"exp": True}, "claims"),
        ({"exp": float("inf")}, "claims"),
        ({"exp": float("nan")}, "claims"),
        ({"exp": 10**400}, "claims"),
        ({"exp": -1}, "claims"),
        ({"nbf": SECONDS + 11}, "not_yet_valid"),
        ({"iat": SECONDS + 11}, "not_yet_valid"),
        ({"nbf": []}, "claims"),
    ],
)
def test_claims_that_do_not_hold_say_which(changes: dict[str, Any], reason: str) -> None:
    """Outside every refusal looks the same, inside it begins with its reason."""
    with pytest.raises(AppError) as failure:
        check(**changes)

    assert failure.value.code is ErrorCode.UNAUTHENTICATED
    assert failure.value.detail == "request authenticate failure"
    assert failure.value.diagnosis.partition(":")[0] == reason


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b"7", b'{"a":1,"a":2}', b'{"exp":NaN}', b'{"exp":Infinity}', b"[" * 50_000, b"\xff"]
)
def test_a_payload_that_two_readers_could_read_differently_is_refused(payload: bytes) -> None:
    """Duplicate names, NaN, deep nesting and everything that is not one object."""
    with pytest.raises(AppError) as failure:
        parse_claims(payload)

    assert failure.value.code is ErrorCode.UNAUTHENTICATED
