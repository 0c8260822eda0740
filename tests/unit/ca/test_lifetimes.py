"""WorkloadLifetimes by namespace and account, spreading, and convergence by a deadline."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.ca.lifetimes import LifetimeRule, WorkloadLifetimes, go_duration, renewal_delay_seconds, share_of
from app.ca.profile import Clamp, TtlGrant
from app.errors import AppError, ErrorCode
from tests.support.certificates import NOW, PROFILE

HOUR = 3_600
DAY = 24 * HOUR
YEAR = timedelta(days=365)


def grant(lifetimes: WorkloadLifetimes, requested: int, **changes: object) -> TtlGrant:
    """A grant for shop/cart unless told otherwise."""
    arguments: dict[str, object] = {
        "namespace": "shop",
        "service_account": "cart",
        "spread_by": "node-a/cart",
        "now": NOW,
        "chain_not_after": NOW + YEAR,
    }
    return lifetimes.grant(requested, **(arguments | changes))  # type: ignore[arg-type]


def test_without_rules_the_profile_holds() -> None:
    """Default, clamp and nothing else."""
    lifetimes = WorkloadLifetimes(PROFILE)

    assert TtlGrant(seconds=DAY) == grant(lifetimes, 0)
    assert TtlGrant(seconds=90 * DAY, clamp=Clamp.MAXIMUM) == grant(lifetimes, 91 * DAY)


@pytest.mark.parametrize(
    ("namespace", "account", "maximum"),
    [
        ("shop", "cart", 1 * HOUR),
        ("shop", "pay", 2 * HOUR),
        ("bank", "cart", 3 * HOUR),
        ("bank", "pay", 4 * HOUR),
    ],
)
def test_the_most_specific_rule_wins(namespace: str, account: str, maximum: int) -> None:
    """Both names before the namespace, the namespace before the account, the account before all."""
    rules = [
        LifetimeRule(maximum_seconds=4 * HOUR),
        LifetimeRule(service_account="cart", maximum_seconds=3 * HOUR),
        LifetimeRule(namespace="shop", maximum_seconds=2 * HOUR),
        LifetimeRule(namespace="shop", service_account="cart", maximum_seconds=1 * HOUR),
    ]

    for order in (rules, rules[::-1]):
        got = grant(WorkloadLifetimes(PROFILE, order), DAY, namespace=namespace, service_account=account)
        assert TtlGrant(seconds=maximum, clamp=Clamp.MAXIMUM) == got


def test_each_value_comes_from_the_most_specific_rule_that_has_it() -> None:
    """A rule that only says a default leaves the maximum to the rule above it."""
    lifetimes = WorkloadLifetimes(
        PROFILE,
        [
            LifetimeRule(namespace="shop", maximum_seconds=2 * HOUR),
            LifetimeRule(namespace="shop", service_account="cart", default_seconds=HOUR),
        ],
    )

    assert TtlGrant(seconds=HOUR) == grant(lifetimes, 0)
    assert TtlGrant(seconds=2 * HOUR, clamp=Clamp.MAXIMUM) == grant(lifetimes, DAY)
    assert TtlGrant(seconds=2 * HOUR) == grant(lifetimes, 0, service_account="pay")


def test_a_value_that_nobody_wrote_moves_out_of_the_way_of_a_more_specific_rule() -> None:
    """A minimum for a namespace gives way to a smaller maximum for one account of it, and the other way round."""
    lifetimes = WorkloadLifetimes(
        PROFILE,
        [
            LifetimeRule(namespace="shop", minimum_seconds=2 * HOUR, maximum_seconds=3 * HOUR),
            LifetimeRule(namespace="shop", service_account="cart", maximum_seconds=HOUR),
            LifetimeRule(namespace="shop", service_account="pay", minimum_seconds=4 * HOUR),
        ],
    )

    assert TtlGrant(seconds=HOUR) == grant(lifetimes, 0)
    assert TtlGrant(seconds=4 * HOUR) == grant(lifetimes, 0, service_account="pay")


def test_a_minimum_of_a_rule_is_refused_below() -> None:
    """A payment service that renews every few minutes is stopped by its own rule."""
    lifetimes = WorkloadLifetimes(PROFILE, [LifetimeRule(namespace="shop", minimum_seconds=HOUR)])
    with pytest.raises(AppError) as caught:
        grant(lifetimes, HOUR - 1)
    assert caught.value.code is ErrorCode.INVALID
    assert caught.value.diagnosis.startswith("lifetime_below_minimum:")


def test_over_long_requests_are_refused_in_istiods_words_where_that_is_wished() -> None:
    """Operators search for this sentence; clamping is the default."""
    rules = [LifetimeRule(namespace="shop", maximum_seconds=2 * HOUR)]
    with pytest.raises(AppError) as caught:
        grant(WorkloadLifetimes(PROFILE, rules, refuse_over_long=True), 3 * HOUR)
    assert caught.value.code is ErrorCode.INVALID
    assert caught.value.detail == "requested TTL 3h0m0s is greater than the max allowed TTL 2h0m0s"
    assert TtlGrant(seconds=2 * HOUR, clamp=Clamp.MAXIMUM) == grant(WorkloadLifetimes(PROFILE, rules), 3 * HOUR)


@pytest.mark.parametrize(("seconds", "text"), [(45, "45s"), (300, "5m0s"), (7_265, "2h1m5s"), (90 * DAY, "2160h0m0s")])
def test_durations_as_go_prints_them(seconds: int, text: str) -> None:
    """Hours are the largest unit, and smaller ones are never left out."""
    assert text == go_duration(seconds)


@pytest.mark.parametrize(
    "rule",
    [
        LifetimeRule(namespace="shop"),
        LifetimeRule(minimum_seconds=HOUR, maximum_seconds=HOUR - 1),
        LifetimeRule(default_seconds=HOUR, maximum_seconds=HOUR - 1),
        LifetimeRule(minimum_seconds=HOUR, default_seconds=HOUR - 1),
        LifetimeRule(minimum_seconds=239),
        LifetimeRule(maximum_seconds=239),
        LifetimeRule(maximum_seconds=90 * DAY + 1),
    ],
)
def test_a_rule_that_cannot_hold_is_refused_at_the_start(rule: LifetimeRule) -> None:
    """Empty, contradictory, in the range of the hot loop, or beyond what holds for all."""
    with pytest.raises(AppError) as caught:
        WorkloadLifetimes(PROFILE, [rule])
    assert caught.value.code is ErrorCode.INVALID


def test_two_rules_for_the_same_workloads_are_refused() -> None:
    """Which one would win nobody could say."""
    rules = [LifetimeRule(namespace="a", maximum_seconds=HOUR), LifetimeRule(namespace="a", minimum_seconds=HOUR)]
    with pytest.raises(AppError, match="two rules for a/\\*"):
        WorkloadLifetimes(PROFILE, rules)


# Spreading.


def test_spreading_takes_up_to_a_tenth_always_the_same_for_node_and_identity() -> None:
    """Nothing is remembered: the same pair always gets the same share, another pair another one."""
    lifetimes = WorkloadLifetimes(PROFILE, spread_fraction=0.1)
    cuts = [grant(lifetimes, DAY, spread_by=f"node-{node}").spread_seconds for node in range(2_000)]

    assert cuts == [grant(lifetimes, DAY, spread_by=f"node-{node}").spread_seconds for node in range(2_000)]
    assert 0 <= min(cuts) < 0.002 * DAY
    assert 0.098 * DAY < max(cuts) <= 0.1 * DAY
    assert 0.045 * DAY < sum(cuts) / len(cuts) < 0.055 * DAY


def test_spreading_is_no_clamp_and_is_off_without_somebody_to_spread_by() -> None:
    """Clients are not told of a clamp; our own listeners' certificates are not spread."""
    lifetimes = WorkloadLifetimes(PROFILE, spread_fraction=0.1)
    got = grant(lifetimes, DAY)

    assert not got.clamped
    assert got.seconds + got.spread_seconds == DAY
    assert TtlGrant(seconds=DAY) == grant(lifetimes, DAY, spread_by="")


@given(st.text(min_size=1, max_size=40), st.integers(300, 4_000))
def test_spreading_never_goes_below_the_minimum(spread_by: str, requested: int) -> None:
    """Whatever the share: the half-life hot loop stays out of reach."""
    got = grant(WorkloadLifetimes(PROFILE, spread_fraction=0.5), requested, spread_by=spread_by)

    assert PROFILE.min_ttl_seconds <= got.seconds <= requested


@pytest.mark.parametrize("fraction", [-0.1, 0.51, 1.0])
def test_a_spread_that_would_take_too_much_is_refused(fraction: float) -> None:
    """At most half of a lifetime."""
    with pytest.raises(AppError, match="spread fraction"):
        WorkloadLifetimes(PROFILE, spread_fraction=fraction)


def _renewals(lifetimes: WorkloadLifetimes, *, certificates: int, until: float) -> list[float]:
    """When certificates that were all made at second 0 are renewed, as ztunnel renews: at half, without jitter."""
    moments = []
    for number in range(certificates):
        moment = 0.0
        while moment < until:
            now = NOW + timedelta(seconds=moment)
            got = grant(lifetimes, DAY, spread_by=f"node-{number}", now=now, chain_not_after=now + YEAR)
            moment += renewal_delay_seconds(got.seconds, PROFILE.backdate_seconds)
            moments.append(moment)
    return moments


def _peak_over_mean(moments: list[float], start: float, end: float, bins: int = 24) -> float:
    counts = [0] * bins
    for moment in moments:
        if start <= moment < end:
            counts[int((moment - start) / (end - start) * bins)] += 1
    return max(counts) / (sum(counts) / bins)


def test_bar_r10b_renewals_are_spread_after_three_periods() -> None:
    """Made at one instant, after three periods no half hour sees more than three times the mean.

    Without spreading all come at the same moment, which shows that the measure can fail.
    """
    period = DAY / 2
    spread = _renewals(WorkloadLifetimes(PROFILE, spread_fraction=0.1), certificates=2_000, until=5 * period)
    alone = _renewals(WorkloadLifetimes(PROFILE), certificates=50, until=5 * period)

    assert _peak_over_mean(spread, 3 * period, 4 * period) <= 3
    assert _peak_over_mean(alone, 3 * period, 4 * period) == 24


def test_shares_are_even() -> None:
    """A tenth of all texts falls into each tenth."""
    counts = [0] * 10
    for number in range(10_000):
        counts[int(share_of(f"node-{number}\nspiffe://cluster.local/ns/a/sa/b") * 10)] += 1

    assert all(900 < count < 1_100 for count in counts), counts


# Convergence.


@given(st.integers(1, 3 * DAY), st.sampled_from([0, 600, HOUR, DAY, 90 * DAY]))
def test_a_certificate_made_while_the_mesh_converges_is_renewed_before_the_deadline(left: int, requested: int) -> None:
    """Unless not even the shortest lifetime renews so soon; and never below the minimum."""
    got = grant(WorkloadLifetimes(PROFILE, spread_fraction=0.1), requested, converge_by=NOW + timedelta(seconds=left))
    renewed_after = renewal_delay_seconds(got.seconds, PROFILE.backdate_seconds)
    soonest = renewal_delay_seconds(PROFILE.min_ttl_seconds, PROFILE.backdate_seconds)

    assert renewed_after < left or got.seconds == PROFILE.min_ttl_seconds
    assert got.seconds >= PROFILE.min_ttl_seconds
    assert renewed_after >= soonest > 0


def test_convergence_says_that_it_clamped() -> None:
    """What is short for this reason names it; what would be renewed in time anyway is left alone."""
    deadline = NOW + timedelta(hours=2)
    got = grant(WorkloadLifetimes(PROFILE), DAY, converge_by=deadline)

    assert got == TtlGrant(seconds=int(1.8 * 2 * HOUR) + 121, clamp=Clamp.CONVERGENCE)
    assert TtlGrant(seconds=HOUR) == grant(WorkloadLifetimes(PROFILE), HOUR, converge_by=deadline)


def test_a_deadline_that_has_passed_changes_nothing() -> None:
    """It ends by itself."""
    assert TtlGrant(seconds=DAY) == grant(WorkloadLifetimes(PROFILE), DAY, converge_by=NOW)


def test_renewals_do_not_storm_towards_the_deadline() -> None:
    """One certificate over two hours of convergence is renewed a handful of times, not in a loop."""
    deadline, moment, renewals = NOW + timedelta(hours=2), NOW, 0
    while moment < deadline:
        got = grant(WorkloadLifetimes(PROFILE), DAY, now=moment, converge_by=deadline)
        moment += timedelta(seconds=renewal_delay_seconds(got.seconds, PROFILE.backdate_seconds))
        renewals += 1

    assert renewals <= 5
