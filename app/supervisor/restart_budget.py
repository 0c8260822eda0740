"""How soon a process that ended may be started again."""

from __future__ import annotations

from collections import deque

from app.limits import ProcessLimits


class RestartBudget:
    """At once while restarts are rare; with growing pauses when there are more than the burst in the window."""

    def __init__(self, limits: ProcessLimits) -> None:
        self._limits = limits
        self._restarts: deque[float] = deque(maxlen=limits.restart_burst + 16)

    def pause_before_restart(self, now: float) -> float:
        """Record a restart at `now` (monotonic seconds) and say how many seconds to wait before it."""
        while self._restarts and now - self._restarts[0] > self._limits.restart_window_seconds:
            self._restarts.popleft()
        self._restarts.append(now)
        over = len(self._restarts) - self._limits.restart_burst
        if over <= 0:
            return 0.0
        return float(min(0.5 * 2 ** (over - 1), self._limits.restart_backoff_max_seconds))

    def is_spent(self, now: float) -> bool:
        """Whether the process is restarting again and again."""
        recent = [at for at in self._restarts if now - at <= self._limits.restart_window_seconds]
        return len(recent) > self._limits.restart_burst
