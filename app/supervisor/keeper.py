"""Keeps one place filled with a living process: replaces it when it dies, hangs or should be renewed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from app.bootstrap.child import EXIT_REFUSED, is_fine
from app.limits import ProcessLimits
from app.supervisor.process import Process, Program
from app.supervisor.restart_budget import RestartBudget

_log = structlog.get_logger(__name__)

# Beside drain.max: what the child needs to start draining and to exit, before it is killed.
_EXIT_MARGIN_SECONDS = 2.0
_WATCH_SECONDS = 0.2


class Keeper:
    """One place, for example "worker-1". `run` fills it until `stop`."""

    def __init__(
        self,
        make_program: Callable[[], Program],
        limits: ProcessLimits,
        *,
        on_end: Callable[[Process], None] = lambda _: None,
    ) -> None:
        self._make_program = make_program
        self._limits = limits
        self._on_end = on_end
        self._budget = RestartBudget(limits)
        self._is_stopping = False
        self._replacing = asyncio.Lock()
        self.current: Process | None = None
        self.restarts = 0
        self.replacements = 0
        self.refusal = ""  # why the last process refused to start; if it was the first, the place stays empty
        self._has_served = False

    @property
    def is_ready(self) -> bool:
        """Whether the process in this place can be given work."""
        return self.current is not None and self.current.is_ready

    def what_is_missing(self) -> str:
        """Why nothing serves here."""
        process = self.current
        is_alive = process is not None and process.is_alive
        if self.refusal and not (process is not None and is_alive and process.has_been_ready):
            return f"refused: {self.refusal}"
        if process is None or not is_alive:
            return "restarting"
        reasons = process.heartbeat.reasons.items()
        return "; ".join(f"{name}: {reason}" for name, reason in reasons if not is_fine(reason)) or "not ready"

    def note(self) -> str:
        """What one should know: "ok", "ok: ..." when something is to be said, or what is missing."""
        if self.current is None or not self.is_ready:
            return self.what_is_missing()
        return next((reason for reason in self.current.heartbeat.reasons.values() if reason != "ok"), "ok")

    def is_crash_looping(self, now: float) -> bool:
        """Whether the place is refilled again and again."""
        return self._budget.is_spent(now)

    async def run(self) -> None:
        """Fill the place, and again whenever its process ends, until `stop` is called.

        A first process that refuses is not tried again. One that refuses after others have served is, but seldom: what
        goes on beside it must not end with it, and it serves again as soon as its owner has seen to it.
        """
        while True:
            self.current = await Process.start(self._make_program())
            _log.info("child_started", child=self.current.name, pid=self.current.pid)
            process = await self._until_empty(self.current)
            if self._is_stopping:
                return
            is_refused = process.exit_code == EXIT_REFUSED
            self.refusal = (process.fatal or f"{process.name} refused; the log says why") if is_refused else ""
            if is_refused and not self._has_served:
                return
            _log.error("child_died", child=process.name, pid=process.pid, exit_code=process.exit_code)
            self.restarts += 1
            pause = self._budget.pause_before_restart(time.monotonic())
            if is_refused and not process.has_been_ready:
                pause = self._limits.restart_backoff_max_seconds
                _log.error("child_refused", child=process.name, reason=self.refusal, next_try_seconds=pause)
            elif pause:
                _log.error("child_restarts_too_often", child=process.name, pause_seconds=pause)
            await asyncio.sleep(pause)

    async def _until_empty(self, process: Process) -> Process:
        """Until the process in this place ended; `replace` may have put another one there meanwhile."""
        while True:
            await self._watch(process)
            self._has_served = self._has_served or process.has_been_ready
            assert self.current is not None
            if process is self.current:
                self._on_end(process)
                return process
            process = self.current

    async def _watch(self, process: Process) -> None:
        """Until the process ended, or was killed because it fell silent, or is no longer the current one."""
        ended = asyncio.create_task(process.wait_until_ended())
        try:
            while not ended.done() and process is self.current:
                await asyncio.wait({ended}, timeout=_WATCH_SECONDS)
                silent = process.silent_seconds(time.monotonic())
                limit = self._limits.heartbeat_timeout_seconds if process.has_spoken else self._limits.start_seconds
                if silent > limit and process.is_alive:
                    _log.error("child_silent", child=process.name, pid=process.pid, silent_seconds=round(silent, 1))
                    process.kill()
            if process is self.current:
                await ended
        finally:
            ended.cancel()

    async def replace(self) -> bool:
        """Put a new process in the place, which serves before the old one begins to leave; whether that worked."""
        async with self._replacing:
            old = self.current
            if old is None or self._is_stopping:
                return False
            new = await Process.start(self._make_program())
            try:
                async with asyncio.timeout(self._limits.start_seconds):
                    is_ready = await new.wait_until_complete()
            except TimeoutError:
                is_ready = False
            if not is_ready or self._is_stopping:
                _log.error("child_not_replaced", child=new.name, reason=new.fatal or "the new one did not become ready")
                new.kill()
                await new.wait_until_ended()
                self._on_end(new)
                return False
            self.current = new
            self.replacements += 1
            _log.info("child_replaced", child=new.name, pid=new.pid, old_pid=old.pid)
            old.drain(min_seconds=0.0, max_seconds=self._limits.drain_max_seconds)
            await self._let_go(old, self._limits.drain_max_seconds)
            return True

    async def _let_go(self, process: Process, max_seconds: float) -> None:
        await process.end(within_seconds=max_seconds + _EXIT_MARGIN_SECONDS)
        self._on_end(process)

    async def stop(self, *, min_seconds: float, max_seconds: float) -> None:
        """Drain the process and end."""
        self._is_stopping = True
        process = self.current
        if process is None:
            return
        process.drain(min_seconds=min_seconds, max_seconds=max_seconds)
        await process.end(within_seconds=max_seconds + _EXIT_MARGIN_SECONDS)

    def kill(self) -> None:
        """End the process at once."""
        self._is_stopping = True
        if self.current is not None:
            self.current.kill()
