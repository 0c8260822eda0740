"""A child process of the supervisor, from its own side: assignment in, heartbeats out, commands, drain.

The supervisor writes JSON lines to the child's standard input: first the assignment, later commands. The child writes
JSON lines to what was its standard output: heartbeats and answers to commands. Settings travel this way because a
command line and an environment can be read by others and are inherited. The end of the input means that the
supervisor is gone; then the child ends too, so that no orphan keeps a port.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog
import uvloop

from app.errors import AppError, ErrorCode
from app.limits import ProcessLimits
from app.settings import Settings, load_settings
from app.telemetry.exposition import reserve_metrics_space
from app.telemetry.logging import configure_logging

_log = structlog.get_logger(__name__)

EXIT_REFUSED = 3  # the settings or the stored state do not allow a start; trying again would not help
EXIT_FAILED = 1
_IMPATIENT_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What the supervisor tells a child to be."""

    name: str
    settings: Settings
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a child says in each heartbeat; `reasons` says of each part what keeps it from being ready, or `is_fine`."""

    ready: bool
    reasons: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


class Service(Protocol):
    """What a composition gives the child process to run."""

    def report(self, *, loop_lag_seconds: float) -> Report:
        """How it stands now; also the moment to flush counters."""
        ...

    async def drain(self, *, min_seconds: float, max_seconds: float) -> None:
        """Say not ready at once, answer for `min_seconds`, then let clients go, within `max_seconds`."""
        ...

    async def command(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """Carry out a command of the supervisor's control socket."""
        ...


Compose = Callable[[Assignment], AbstractAsyncContextManager[Service]]


def run_child(compose: Compose) -> int:
    """Run the process that `compose` builds; returns its exit code."""
    child = read_assignment()
    return EXIT_FAILED if child is None else uvloop.run(child.run(compose))


def read_assignment() -> Child | None:
    """What the supervisor wants this process to be, read from standard input; None when the supervisor is gone."""
    output = _take_standard_output()
    with open(0, "rb", buffering=0, closefd=False) as unbuffered:  # commands may follow; they are not for here
        line = unbuffered.readline()
    if not line:
        return None
    raw = json.loads(line)
    assignment = Assignment(
        name=raw["name"], settings=load_settings(environ={}, **raw["settings"]), extra=raw.get("extra", {})
    )
    logging = assignment.settings.logging
    configure_logging(output=logging.format, level=logging.level, process=assignment.name)
    reserve_metrics_space()
    return Child(assignment, output)


def _take_standard_output() -> int:
    """The pipe to the supervisor; what any library prints goes to stderr instead of into it."""
    output = os.dup(1)
    os.dup2(2, 1)
    os.set_blocking(output, False)
    return output


@dataclass(slots=True)
class _Drain:
    min_seconds: float
    max_seconds: float


def is_fine(reason: str) -> bool:
    """Whether a reason of a report says that nothing is missing: "ok", or "ok: " and what one should know."""
    return reason == "ok" or reason.startswith("ok: ")


def _is_complete(message: Mapping[str, Any]) -> bool:
    return all(is_fine(reason) for reason in message["reasons"].values())


class Child:
    """The loop of one child process."""

    def __init__(self, assignment: Assignment, output: int) -> None:
        self.assignment = assignment
        self._limits: ProcessLimits = assignment.settings.limits.process
        self._output = output
        self._unsent = b""
        self._service: Service | None = None
        self._drain: asyncio.Future[_Drain] | None = None
        self._is_draining = False

    async def run(self, compose: Compose, *, owns_signals: bool = True) -> int:
        """Run the service until it is drained; returns the exit code. A host that takes signals itself says so."""
        loop = asyncio.get_running_loop()
        self._drain = loop.create_future()
        if owns_signals:
            loop.add_signal_handler(signal.SIGTERM, self._on_sigterm)
            loop.add_signal_handler(signal.SIGINT, lambda: None)
        tasks = [asyncio.create_task(self._beat()), asyncio.create_task(self._listen())]
        try:
            async with compose(self.assignment) as service:
                self._service = service
                # What was built to serve stays as long as the process: a full collection would look at all of it, and
                # hold up for a tenth of a second whoever asks meanwhile.
                gc.collect()
                gc.freeze()
                _log.info("process_started", pid=os.getpid())
                drain = await self._drain
                self._is_draining = True
                _log.info("process_draining", min_seconds=drain.min_seconds, max_seconds=drain.max_seconds)
                await service.drain(min_seconds=drain.min_seconds, max_seconds=drain.max_seconds)
        except AppError as error:
            _log.error("process_refused", reason=error.detail, code=error.code.value, diagnosis=error.diagnosis)
            self._send({"fatal": error.detail, "code": error.code.value})
            refused = error.code not in (ErrorCode.UNAVAILABLE, ErrorCode.TIMEOUT, ErrorCode.INTERNAL)
            return EXIT_REFUSED if refused else EXIT_FAILED
        except Exception:  # noqa: BLE001 - the supervisor starts another one; the log says why
            _log.exception("process_crashed")
            return EXIT_FAILED
        finally:
            self._service = None
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        _log.info("process_ended")
        return 0

    def _on_sigterm(self) -> None:
        self._begin_drain(self._limits.drain_min_seconds, self._limits.drain_max_seconds)

    def _begin_drain(self, min_seconds: float, max_seconds: float) -> None:
        if self._drain is not None and not self._drain.done():
            self._drain.set_result(_Drain(min_seconds, max_seconds))

    async def _beat(self) -> None:
        lag = 0.0
        while True:
            message = self._message(lag)
            self._send(message, may_be_dropped=True)
            # Somebody waits for a process that is not ready yet.
            pause = self._limits.heartbeat_seconds if _is_complete(message) else _IMPATIENT_SECONDS
            expected = time.monotonic() + pause
            await asyncio.sleep(pause)
            lag = max(0.0, time.monotonic() - expected)

    def _message(self, lag: float) -> dict[str, Any]:
        service = self._service
        if service is None:
            return {"ready": False, "reasons": {"start": "starting"}}
        try:
            report = service.report(loop_lag_seconds=lag)
        except Exception:  # noqa: BLE001 - a process that cannot say how it is, is not ready, but it lives
            _log.exception("report_failed")
            return {"ready": False, "reasons": {"report": "failed; the log says why"}}
        return {
            "ready": report.ready and not self._is_draining,
            "draining": self._is_draining,
            "reasons": {**report.reasons, **({"drain": "draining"} if self._is_draining else {})},
            "numbers": {**report.numbers, "loopLagSeconds": round(lag, 4)},
            "facts": dict(report.facts),
        }

    def _send(self, message: Mapping[str, Any], *, may_be_dropped: bool = False) -> None:
        """Write a line as far as the pipe takes it; a supervisor that does not read must not block us."""
        if not (self._unsent and may_be_dropped):
            self._unsent += json.dumps(message, separators=(",", ":")).encode() + b"\n"
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            while self._unsent:
                self._unsent = self._unsent[os.write(self._output, self._unsent) :]

    async def _listen(self) -> None:
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            message = json.loads(line)
            if message["command"] == "drain":
                self._begin_drain(message["min_seconds"], message["max_seconds"])
            else:
                await self._obey(message)
        _log.warning("supervisor_gone")
        self._begin_drain(0.0, 2.0)

    async def _obey(self, message: Mapping[str, Any]) -> None:
        answer: dict[str, Any]
        try:
            if self._service is None:
                raise AppError(ErrorCode.UNAVAILABLE, f"{self.assignment.name} is still starting; try again")  # noqa: TRY301
            answer = {"result": await self._service.command(message["command"], message.get("arguments", {}))}
        except AppError as error:
            answer = {"error": error.detail}
        except Exception:  # noqa: BLE001 - a command must not end the process
            _log.exception("command_failed", command=message["command"])
            answer = {"error": "the command failed; the log says why"}
        self._send({"reply": message["id"], **answer})
