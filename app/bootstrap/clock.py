"""The one place that asks the machine for the time."""

from __future__ import annotations

import time
from datetime import UTC, datetime

# Unlike CLOCK_MONOTONIC it goes on while a host is suspended, as the wall clock does.
_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class SystemClock:
    """The time of this machine; implements `app.authority.ports.MonotonicClock`."""

    def now(self) -> datetime:
        """The current time in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds since the host booted."""
        return time.clock_gettime(_BOOTTIME)
