"""Is the wall clock still the one that we started with?

Certificates state wall-clock times, and everything that measures durations runs on monotonic time. When both drift
apart by more than a bound, somebody or something has moved the wall clock: whatever would be issued now would begin or
end at the wrong time, so nothing is issued until it is right again. Decisions do not depend on it.
"""

from __future__ import annotations

from datetime import datetime

from app.authority.ports import MonotonicClock
from app.errors import AppError, ErrorCode


class ClockGuard:
    """A wall clock that knows whether it was moved; implements `app.authority.ports.Clock`.

    It is compared with the time that has passed since the start.

    Time that a host spends suspended counts as passed (`MonotonicClock.monotonic`); slow corrections of NTP move both.
    """

    def __init__(self, clock: MonotonicClock, *, max_drift_seconds: float) -> None:
        self._clock = clock
        self._max_drift_seconds = max_drift_seconds
        self._started = clock.now().timestamp() - clock.monotonic()

    def now(self) -> datetime:
        """What the wall clock says, right or not."""
        return self._clock.now()

    @property
    def drift_seconds(self) -> float:
        """By how much the wall clock has moved against the time that passed; positive is ahead."""
        return self._clock.now().timestamp() - self._clock.monotonic() - self._started

    @property
    def is_right(self) -> bool:
        """Whether the drift is within the bound."""
        return abs(self.drift_seconds) <= self._max_drift_seconds

    def check(self) -> None:
        """Refuse while the clock is wrong.

        Raises:
            AppError: `FAILED_PRECONDITION`.
        """
        drift = self.drift_seconds
        if abs(drift) > self._max_drift_seconds:
            raise AppError(
                ErrorCode.FAILED_PRECONDITION,
                "the authority's clock was moved; nothing is issued until it is right again",
                diagnosis=f"clock: the wall clock is {drift:+.0f} s against the time since the start, "
                f"more than {self._max_drift_seconds:.0f} s",
            )
