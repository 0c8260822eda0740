"""Which old checkpoints are kept: all that are young, then the newest of each hour, then the newest of each day.

A proof never needs a stored checkpoint of its size, so what is thinned out is lost to nobody who holds it; the kept
ones say when the log had which size, and bound the place of a change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

HOURLY_FOR = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class CheckpointAge:
    """A checkpoint by its size and when it was signed."""

    size: int
    time: datetime


def superfluous(newest_first: Sequence[CheckpointAge]) -> list[int]:
    """The sizes to forget, of checkpoints that are old enough to be thinned; the first one of all stays."""
    if not newest_first:
        return []
    horizon = newest_first[0].time - HOURLY_FOR
    forgotten: list[int] = []
    kept = ""
    for checkpoint in newest_first:
        period = checkpoint.time.strftime("%Y-%m-%dT%H" if checkpoint.time > horizon else "%Y-%m-%d")
        if period == kept:
            forgotten.append(checkpoint.size)
        kept = period
    return forgotten
