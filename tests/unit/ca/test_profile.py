"""Lifetimes: what a request for so many seconds gets."""

from __future__ import annotations

from datetime import timedelta

import pytest

from app.ca.profile import Clamp, TtlGrant, WorkloadProfile
from app.errors import AppError, ErrorCode
from app.limits import CertificateLimits
from tests.support.certificates import NOW, PROFILE

DAY = 86_400


def grant(requested: int, *, ends_in: timedelta = timedelta(days=365)) -> TtlGrant:
    return PROFILE.granted_ttl(requested, now=NOW, chain_not_after=NOW + ends_in)


def refusal(requested: int, *, ends_in: timedelta = timedelta(days=365)) -> AppError:
    with pytest.raises(AppError) as caught:
        grant(requested, ends_in=ends_in)
    return caught.value


@pytest.mark.parametrize("requested", [0, -1, -(2**63)])
def test_case_048_zero_and_negative_ask_for_the_default(requested: int) -> None:
    """As istiod does."""
    assert TtlGrant(seconds=DAY) == grant(requested)


@pytest.mark.parametrize("requested", [2**63 - 1, 9_223_372_037, 2**31])
def test_case_049_numbers_that_are_no_lifetime(requested: int) -> None:
    """The edges of other people's integers are refused, and nothing wraps around."""
    assert ErrorCode.INVALID is refusal(requested).code


def test_case_050_above_the_maximum_is_clamped() -> None:
    """A refusal would be repeated for ever by a node proxy."""
    assert TtlGrant(seconds=90 * DAY, clamp=Clamp.MAXIMUM) == grant(90 * DAY + 1)
    assert grant(90 * DAY + 1).clamped


def test_the_maximum_itself_is_granted() -> None:
    """Not clamped, to the second."""
    assert TtlGrant(seconds=90 * DAY) == grant(90 * DAY)
    assert not grant(90 * DAY).clamped


@pytest.mark.parametrize("requested", [1, 120, 299])
def test_case_051_below_the_minimum(requested: int) -> None:
    """Refused: with so short a life a ztunnel would ask in a tight loop."""
    assert ErrorCode.INVALID is refusal(requested).code
    assert TtlGrant(seconds=300) == grant(300)


def test_case_052_longer_than_the_issuer_lives() -> None:
    """Clamped to the end of the shortest-lived element of the chain."""
    assert TtlGrant(seconds=7200, clamp=Clamp.ISSUER) == grant(DAY, ends_in=timedelta(hours=2, microseconds=5))


def test_case_053_an_issuer_about_to_expire() -> None:
    """With less than an hour left it refuses; with an hour it issues."""
    refused = refusal(600, ends_in=timedelta(seconds=3599))
    assert ErrorCode.FAILED_PRECONDITION is refused.code
    assert "3599" in refused.diagnosis
    assert TtlGrant(seconds=600) == grant(600, ends_in=timedelta(hours=1))


@pytest.mark.parametrize("ended", [timedelta(0), timedelta(days=-1)])
def test_an_expired_issuer_refuses(ended: timedelta) -> None:
    """Whatever is asked for."""
    assert ErrorCode.FAILED_PRECONDITION is refusal(0, ends_in=ended).code


@pytest.mark.parametrize(
    "limits",
    [
        CertificateLimits(min_ttl_seconds=239, backdate_seconds=120),
        CertificateLimits(backdate_seconds=-1),
        CertificateLimits(min_ttl_seconds=0, backdate_seconds=0),
        CertificateLimits(default_ttl_seconds=200),
        CertificateLimits(default_ttl_seconds=91 * DAY),
        CertificateLimits(max_ttl_seconds=2**31, default_ttl_seconds=DAY),
    ],
)
def test_limits_that_contradict_each_other(limits: CertificateLimits) -> None:
    """Refused when the profile is made, not when the first certificate is."""
    with pytest.raises(AppError) as caught:
        WorkloadProfile.from_limits(limits)
    assert ErrorCode.INVALID is caught.value.code


def test_a_grant_never_exceeds_what_is_left_of_the_issuer_even_with_odd_limits() -> None:
    """A minimum above the issuer's guard raises the guard."""
    limits = CertificateLimits(min_ttl_seconds=7200, default_ttl_seconds=7200, min_issuer_life_seconds=60)
    profile = WorkloadProfile.from_limits(limits)
    with pytest.raises(AppError) as caught:
        profile.granted_ttl(7200, now=NOW, chain_not_after=NOW + timedelta(seconds=7199))
    assert ErrorCode.FAILED_PRECONDITION is caught.value.code
