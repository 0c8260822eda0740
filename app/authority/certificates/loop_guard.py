"""Does a node proxy ask for the same identity again and again, long before its certificate is due?

A ztunnel renews at half of the life. One that asks much earlier has either been restarted, which a handful of early
requests covers, or it is in a loop: a clock that is wrong by hours, an answer that it cannot use. A loop costs two
durable ledger entries and a signature a turn, for ever, so it is cut down to a trickle and named.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from app.authority.certificates.rate_limits import TokenBuckets
from app.errors import AppError, ErrorCode
from app.limits import CertificateLimits

_EARLY = 0.5  # of the time until the renewal is due


class LoopGuard:
    """Counts early requests by node and identity, in monotonic time; bounded memory, the least recent go first."""

    def __init__(self, limits: CertificateLimits) -> None:
        self._early: TokenBuckets[Hashable] = TokenBuckets(
            rate_per_second=limits.early_renewals / limits.early_window_seconds,
            burst=limits.early_renewals,
            max_keys=limits.max_tracked_callers,
        )
        self._logged: TokenBuckets[Hashable] = TokenBuckets(
            rate_per_second=1 / limits.early_window_seconds, burst=1, max_keys=limits.max_tracked_callers
        )
        self._max_keys = limits.max_tracked_callers
        self._early_until: OrderedDict[Hashable, float] = OrderedDict()

    def check(self, key: Hashable, *, now: float, is_early: bool | None = None) -> None:
        """Refuse what is a loop; `now` in monotonic seconds.

        `is_early` where the caller shows how old its certificate is; otherwise what was issued last decides.

        Raises:
            AppError: `RATE_LIMITED`, its diagnosis beginning with `renewal_loop`.
        """
        if is_early is None:
            is_early = self._is_early(key, now)
        if is_early and not self._early.take(key, now=now):
            raise _loop()

    def foresee(self, key: Hashable, *, now: float) -> None:
        """Refuse what `check` would refuse now, and count nothing.

        Raises:
            AppError: as `check`.
        """
        if self._is_early(key, now) and not self._early.has(key, now=now):
            raise _loop()

    def _is_early(self, key: Hashable, now: float) -> bool:
        return now < self._early_until.get(key, now)

    def issued(self, key: Hashable, *, now: float, renewal_in_seconds: float) -> None:
        """A certificate was issued that is due for renewal in so many seconds."""
        self._early_until[key] = now + _EARLY * renewal_in_seconds
        self._early_until.move_to_end(key)
        if len(self._early_until) > self._max_keys:
            self._early_until.popitem(last=False)

    def is_news(self, key: Hashable, *, now: float) -> bool:
        """Whether this loop should be logged: once a window each."""
        return self._logged.take(key, now=now)


def _loop() -> AppError:
    return AppError(
        ErrorCode.RATE_LIMITED,
        "this node asks for the same identity again and again, long before its certificate is due; slow down",
        diagnosis="renewal_loop: more early requests for this identity than a few restarts explain",
    )
