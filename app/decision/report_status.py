"""Tells the authority every second what this worker serves; the authority only listens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.decision.counters import CheckCounters
from app.decision.load_snapshot import SnapshotLoader
from app.decision.overload import LoopLag
from app.decision.ports import CheckpointMemory, SnapshotLink
from app.decision.state import StateHolder
from app.limits import CheckLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReport:
    """Everything that a status report is made from."""

    worker: str  # a name that is unique among the workers of one token, for example `node-a/1`
    pid: int
    holder: StateHolder
    counters: CheckCounters
    lag: LoopLag
    loader: SnapshotLoader
    limits: CheckLimits

    def to_json(self) -> dict[str, Any]:
        """The report as the link carries it."""
        state = self.holder.state
        rejection = self.holder.rejection
        age = self.holder.age_seconds()
        if state is None:
            word = "empty"
        elif age > self.limits.stale_after_seconds:
            word = "stale"
        else:
            word = "serving"
        return {
            "worker": self.worker,
            "pid": self.pid,
            "state": word,
            "confirmed": self.holder.confirmed,
            "ageSeconds": round(age, 3),
            "number": state.number if state is not None else None,
            "revision": state.revision if state is not None else None,
            "inventoryGeneration": state.inventory_generation if state is not None else None,
            "documents": state.documents if state is not None else 0,
            "rejected": None
            if rejection is None
            else {"number": rejection.number, "revision": rejection.revision, "reason": rejection.reason[:1_000]},
            "load": {
                "lagSeconds": round(self.lag.last_seconds, 6),
                "shedding": self.lag.shedding,
                "lastLoadSeconds": round(self.loader.last_load_seconds, 6),
                "lastCompiled": self.loader.last_compiled,
            },
            "counters": self.counters.to_json(),
        }


async def report_status(
    link: SnapshotLink,
    report: WorkerReport,
    *,
    interval_seconds: float,
    memory: CheckpointMemory | None = None,
    before_send: Callable[[], None] = lambda: None,
    take_hints: Callable[[], list[str]] = list,
    hear_deadline: Callable[[datetime | None], None] = lambda _: None,
) -> None:
    """Send the report for ever, every interval and as soon as another state serves: somebody may wait for that.

    The first one goes out at once; `before_send` may flush counters elsewhere. With a `memory`, the report says which
    checkpoint of the ledger is remembered, and what the authority answers takes its place: an authority that answers
    has accepted the one before. `take_hints` says of which sources of token keys newer ones are wanted;
    `hear_deadline` is told by when everybody shall have renewed, or that nothing converges.
    """
    checks, since = report.counters.total, time.monotonic()
    while True:
        before_send()
        report.holder.swapped.clear()
        status = report.to_json()
        now, total = time.monotonic(), report.counters.total
        # Between the first two reports there is no time to divide by.
        status["load"]["checksPerSecond"] = round((total - checks) / (now - since), 1) if now > since else 0.0
        checks, since = total, now
        hints = take_hints()
        if hints:
            status["keysWanted"] = hints
        if memory is not None and memory.note:
            status["checkpoint"] = memory.note
        answer = await link.send_status(status)
        if answer is not None:
            hear_deadline(answer.converge_by)
            if memory is not None and answer.checkpoint:
                await memory.keep(answer.checkpoint)
        with suppress(TimeoutError):
            async with asyncio.timeout(interval_seconds):
                await report.holder.swapped.wait()
