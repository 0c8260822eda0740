"""The registered claims of a token (RFC 7519 §4.1), each checked here and none by default behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from typing import Any

from app.errors import AppError, ErrorCode
from app.identity.token_claims import OPAQUE_REFUSAL
from app.strict_json import NestingError, parse_strict_json

_LATEST_SECONDS = 253_402_300_799  # the end of the year 9999; datetime ends there


def refused(diagnosis: str) -> AppError:
    """The one outward answer; the diagnosis begins with a word of a closed set."""
    return AppError(ErrorCode.UNAUTHENTICATED, OPAQUE_REFUSAL, diagnosis=diagnosis)


def parse_claims(payload: bytes, *, max_nesting: int = 32) -> dict[str, Any]:
    """The claims set.

    Raises:
        AppError: `UNAUTHENTICATED` when the payload is not a JSON object in UTF-8, names a claim twice, has a number
            that is none here (NaN, 1e400), or is nested deeper than `max_nesting`.
    """
    try:
        claims = parse_strict_json(payload.decode("utf-8"), max_nesting=max_nesting)
    except NestingError:
        raise refused(f"claims: the payload is nested deeper than {max_nesting} levels") from None
    except ValueError:
        raise refused("claims: the payload is not one JSON object with unique names and finite numbers") from None
    if not isinstance(claims, dict):
        raise refused("claims: the payload is not a JSON object")
    return claims


def check_registered_claims(
    claims: Mapping[str, Any],
    *,
    issuer: str,
    audiences: AbstractSet[str],
    now: datetime,
    leeway_seconds: float,
) -> datetime:
    """Check `iss`, `aud`, `exp`, `nbf` and `iat`; the moment when the token ends, leeway not included.

    Raises:
        AppError: `UNAUTHENTICATED`, its diagnosis beginning with what is wrong.
    """
    if claims.get("iss") != issuer:
        raise refused("issuer: iss is not the issuer whose key verified the token")
    if not _audiences_of(claims).intersection(audiences):
        raise refused("audience: aud has none of the audiences that are accepted")
    moment = now.timestamp()
    expires = _seconds(claims, "exp")
    if expires is None or _seconds(claims, "iat") is None:
        raise refused("claims: exp and iat are required")
    if moment >= expires + leeway_seconds:
        raise refused(f"expired: the token ended {moment - expires:.0f} s ago")
    for name in ("nbf", "iat"):
        start = _seconds(claims, name)
        if start is not None and moment < start - leeway_seconds:
            raise refused(f"not_yet_valid: {name} is {start - moment:.0f} s ahead of our clock")
    return datetime.fromtimestamp(expires, UTC)


def _audiences_of(claims: Mapping[str, Any]) -> frozenset[str]:
    match claims.get("aud"):
        case str() as single:
            return frozenset((single,))
        case list() as several if all(isinstance(one, str) for one in several):
            return frozenset(several)
        case _:
            return frozenset()


def _seconds(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise refused(f"claims: {name} is not a number")
    if not 0 <= value <= _LATEST_SECONDS:  # false for NaN, too
        raise refused(f"claims: {name} is not a moment in time")
    return float(value)
