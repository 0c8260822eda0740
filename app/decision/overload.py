"""Tells when a worker has more to do than it can.

A Check never waits for anything inside the worker, so what piles up piles up in the event loop. A task that sleeps a
little and looks how late it woke measures exactly the wait that a Check has. One late wake-up is a pause (a snapshot
compiled, the machine busy); only when the *shortest* of the last few waits is too long is there a queue that does not
drain, as in CoDel (RFC 8289). Then Checks are denied without being evaluated until it has drained.
"""

from __future__ import annotations

import asyncio
from collections import deque

_TICK_SECONDS = 0.02
_TICKS = 3


class LoopLag:
    """The lag of the running event loop; `shedding` is read by every Check."""

    __slots__ = ("_lags", "_max_seconds", "last_seconds", "shedding", "worst_seconds")

    def __init__(self, *, max_queue_seconds: float) -> None:
        self._max_seconds = max_queue_seconds
        self._lags: deque[float] = deque(maxlen=_TICKS)
        self.last_seconds = 0.0
        self.worst_seconds = 0.0
        self.shedding = False

    def observe(self, lag_seconds: float) -> None:
        """Take one measurement into account."""
        self._lags.append(lag_seconds)
        self.last_seconds = lag_seconds
        self.worst_seconds = max(self.worst_seconds, lag_seconds)
        self.shedding = len(self._lags) == _TICKS and min(self._lags) > self._max_seconds

    async def run(self) -> None:
        """Measure for ever."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _TICK_SECONDS
            await asyncio.sleep(_TICK_SECONDS)
            self.observe(max(0.0, loop.time() - due))
