"""A child process that only lives, for tests of those that watch it: `extra` of its assignment says how."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from app.bootstrap.child import Assignment, Report, run_child
from app.errors import AppError, ErrorCode


class _Living:
    def __init__(self, extra: Mapping[str, Any]) -> None:
        self._extra = extra
        self._born = time.monotonic()

    def report(self, *, loop_lag_seconds: float) -> Report:
        ready = time.monotonic() - self._born >= self._extra.get("ready_after", 0.0)
        visible = sorted(name for name in os.environ if "SECRET" in name or name.startswith("GATEHOUSE_"))
        return Report(ready=ready, reasons={"age": "ok" if ready else "too young"}, facts={"environment": visible})

    async def drain(self, *, min_seconds: float, max_seconds: float) -> None:
        await asyncio.sleep(self._extra.get("drain_seconds", 0.0))

    async def command(self, name: str, arguments: Mapping[str, Any]) -> Any:
        if name == "fail":
            raise AppError(ErrorCode.INVALID, "told to fail")
        return {"name": name, **arguments}


@asynccontextmanager
async def _compose(assignment: Assignment) -> AsyncIterator[_Living]:
    print("stray output of a library")  # noqa: T201 - that is what is tested
    if "refuse" in assignment.extra:
        raise AppError(ErrorCode.FAILED_PRECONDITION, assignment.extra["refuse"])
    if "unavailable" in assignment.extra:
        raise AppError(ErrorCode.UNAVAILABLE, assignment.extra["unavailable"])
    yield _Living(assignment.extra)


if __name__ == "__main__":
    sys.exit(run_child(_compose))
