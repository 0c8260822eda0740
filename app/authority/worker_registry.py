"""What each decision worker last said about itself; in memory, bounded, for `gatehouse status`.

A worker says every second what it serves, so nothing here needs to survive a restart.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """One worker's last word: the report as sent, the name of its token, and when it came."""

    worker: str
    token_name: str
    seen_at: datetime
    report: Mapping[str, Any]

    def to_json(self, now: datetime) -> dict[str, Any]:
        """What the API shows."""
        return {
            "worker": self.worker,
            "token": self.token_name,
            "seenSecondsAgo": round(max(0.0, (now - self.seen_at).total_seconds()), 3),
            **{key: value for key, value in self.report.items() if key != "worker"},
        }


class WorkerRegistry:
    """Remembers the newest report of each worker."""

    def __init__(self, *, max_workers: int = 1_000, forget_after: timedelta = timedelta(minutes=5)) -> None:
        self._max_workers = max_workers
        self._forget_after = forget_after
        self._statuses: OrderedDict[tuple[str, str], WorkerStatus] = OrderedDict()

    def record(self, token_name: str, report: Mapping[str, Any], *, now: datetime) -> None:
        """Replace what is known of the worker that reports."""
        worker = str(report.get("worker", ""))[:256]
        key = (token_name, worker)
        self._statuses[key] = WorkerStatus(worker=worker, token_name=token_name, seen_at=now, report=dict(report))
        self._statuses.move_to_end(key)
        while len(self._statuses) > self._max_workers:
            self._statuses.popitem(last=False)

    def statuses(self, *, now: datetime) -> list[WorkerStatus]:
        """The workers heard of lately, by name."""
        horizon = now - self._forget_after
        for key in [key for key, status in self._statuses.items() if status.seen_at < horizon]:
            del self._statuses[key]
        return sorted(self._statuses.values(), key=lambda status: (status.worker, status.token_name))
