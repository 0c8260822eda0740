"""Token buckets: burst, refill, bound."""

from __future__ import annotations

from app.authority.certificates.rate_limits import TokenBuckets


def test_a_burst_passes_and_then_the_rate() -> None:
    """Three at once, then one a second."""
    buckets = TokenBuckets(rate_per_second=1, burst=3, max_keys=10)
    at_once = [buckets.take("a", now=100.0) for _ in range(4)]
    later = [buckets.take("a", now=now) for now in (100.5, 101.0, 101.1, 102.0)]

    assert at_once == [True, True, True, False]
    assert later == [False, True, False, True]


def test_rest_fills_a_bucket_up_to_its_burst_only() -> None:
    """An hour of silence is worth one burst."""
    buckets = TokenBuckets(rate_per_second=10, burst=2, max_keys=10)
    buckets.take("a", now=0.0)

    assert [buckets.take("a", now=3_600.0) for _ in range(3)] == [True, True, False]


def test_keys_do_not_share() -> None:
    """One caller's flood is not another's."""
    buckets = TokenBuckets(rate_per_second=0.1, burst=1, max_keys=10)

    assert [buckets.take(key, now=0.0) for key in ("a", "a", "b")] == [True, False, True]


def test_a_clock_that_goes_back_takes_nothing_away() -> None:
    """No negative refill, no exception."""
    buckets = TokenBuckets(rate_per_second=1, burst=2, max_keys=10)
    buckets.take("a", now=100.0)

    assert [buckets.take("a", now=now) for now in (50.0, 51.0, 52.0)] == [True, True, True]


def test_the_number_of_buckets_is_bounded_and_the_least_recently_used_goes() -> None:
    """A million callers cost the memory of a few."""
    buckets = TokenBuckets(rate_per_second=0.001, burst=1, max_keys=3)
    for key in ("a", "b", "c"):
        buckets.take(key, now=0.0)
    buckets.take("a", now=0.0)  # used again, so "b" is the oldest
    buckets.take("d", now=0.0)

    assert len(buckets) == 3
    assert not buckets.take("a", now=0.0)
    assert buckets.take("b", now=0.0)
