"""One child process as its supervisor sees it: started, heard, told, ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

import app
from app.bootstrap.child import is_fine
from app.errors import AppError, ErrorCode

_log = structlog.get_logger(__name__)

# What a decision worker may see of our environment: nothing with a secret in it.
_WORKER_VARIABLES = (
    "PATH",
    "HOME",
    "LANG",
    "TZ",
    "TMPDIR",
    "VIRTUAL_ENV",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "LD_LIBRARY_PATH",
    "GRPC_VERBOSITY",
    "PROMETHEUS_MULTIPROC_DIR",
)
_MAX_LINE_BYTES = 1_048_576


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to run: a Python module, what to tell it, and whether it may see only the allowed environment."""

    name: str
    module: str
    assignment: Mapping[str, Any]
    metrics_directory: Path
    narrow_environment: bool = True
    descriptors: tuple[int, ...] = ()  # open files that the child inherits, under the same numbers
    host: tuple[str, ...] = ()  # a command that runs the module inside of it, instead of this Python
    host_environment: Mapping[str, str] = field(default_factory=dict)
    directory: Path | None = None

    def environment(self) -> dict[str, str]:
        """The child's environment."""
        if self.narrow_environment:
            env = {name: os.environ[name] for name in _WORKER_VARIABLES if name in os.environ}
            env |= {name: value for name, value in os.environ.items() if name.startswith("LC_")}
        else:
            env = {name: value for name, value in os.environ.items() if not name.startswith("GATEHOUSE_")}
        # The same code as ours, wherever we were started from.
        root = str(Path(app.__file__).parent.parent)
        return {
            "GRPC_VERBOSITY": "NONE",  # draining shuts a listener, which C-core would report as an error
            **env,
            "PYTHONPATH": root,
            "PYTHONSAFEPATH": "1",
            "PROMETHEUS_MULTIPROC_DIR": str(self.metrics_directory),
            **self.host_environment,
        }


@dataclass(slots=True)
class Heartbeat:
    """The newest thing that a child said, and when."""

    at: float
    ready: bool = False
    draining: bool = False
    reasons: dict[str, str] = field(default_factory=lambda: {"start": "starting"})
    numbers: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


class Process:
    """A started child. `heard` is set on every message, `ended` when it is gone."""

    def __init__(self, program: Program, process: asyncio.subprocess.Process) -> None:
        self.program = program
        self.pid = process.pid
        self.started_at = time.monotonic()
        self.heartbeat = Heartbeat(at=time.monotonic())
        self.has_spoken = False
        self.has_been_ready = False
        self.is_leaving = False
        self.fatal = ""  # the one sentence with which it refused to start
        self._process = process
        self._news = asyncio.Condition()
        self._replies: dict[int, asyncio.Future[Any]] = {}
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, program: Program) -> Process:
        """Start the program and give it its assignment."""
        process = await asyncio.create_subprocess_exec(
            *(program.host or (sys.executable, "-m", program.module)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=program.environment(),
            cwd=program.directory,
            pass_fds=program.descriptors,
            start_new_session=True,  # a Ctrl-C at the terminal is for the supervisor, which then drains the others
            limit=_MAX_LINE_BYTES,
        )
        child = cls(program, process)
        child._write({"name": program.name, **program.assignment})
        return child

    @property
    def name(self) -> str:
        """The child's name."""
        return self.program.name

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self._process.returncode is None

    @property
    def exit_code(self) -> int | None:
        """How it ended; negative for a signal."""
        return self._process.returncode

    @property
    def is_ready(self) -> bool:
        """Whether it can be given work."""
        return self.is_alive and self.heartbeat.ready and not self.is_leaving

    def silent_seconds(self, now: float) -> float:
        """How long nothing was heard from it."""
        return now - self.heartbeat.at

    @property
    def is_complete(self) -> bool:
        """Whether it is ready and nothing of it is still missing, so that it can stand in for another."""
        return self.is_ready and all(map(is_fine, self.heartbeat.reasons.values()))

    async def wait_until_complete(self) -> bool:
        """Until it is complete; False when it ended first."""
        async with self._news:
            await self._news.wait_for(lambda: self.is_complete or not self.is_alive)
        return self.is_alive

    async def wait_until_ended(self) -> None:
        """Until it is gone and everything it said was read."""
        await asyncio.shield(self._reader)

    def drain(self, *, min_seconds: float, max_seconds: float) -> None:
        """Tell it to let its clients go and end."""
        self.is_leaving = True
        self._write({"command": "drain", "min_seconds": min_seconds, "max_seconds": max_seconds})

    async def end(self, *, within_seconds: float) -> None:
        """Wait for its end, and kill it when it does not come."""
        try:
            async with asyncio.timeout(within_seconds):
                await self.wait_until_ended()
        except TimeoutError:
            _log.warning("process_killed", child=self.name, pid=self.pid, reason="did not end in time")
            self.kill()
            await self.wait_until_ended()

    def kill(self) -> None:
        """End it at once; works on a stopped process too."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)

    async def command(self, name: str, arguments: Mapping[str, Any], *, timeout_seconds: float) -> Any:
        """Let it carry out a command.

        Raises:
            AppError: `FAILED_PRECONDITION` with what it said, `UNAVAILABLE` when it does not answer.
        """
        number = len(self._replies) + time.monotonic_ns()
        reply = self._replies[number] = asyncio.get_running_loop().create_future()
        try:
            self._write({"command": name, "id": number, "arguments": dict(arguments)})
            async with asyncio.timeout(timeout_seconds):
                message = await reply
        except TimeoutError as error:
            raise AppError(ErrorCode.UNAVAILABLE, f"{self.name} did not answer in time; try again") from error
        finally:
            del self._replies[number]
        if "error" in message:
            raise AppError(ErrorCode.FAILED_PRECONDITION, message["error"])
        return message["result"]

    def _write(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(ConnectionError, RuntimeError):  # it ended; the reader says so
            self._process.stdin.write(json.dumps(message).encode() + b"\n")

    async def _read(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError):  # a line beyond the limit: treated like silence
            while line := await self._process.stdout.readline():
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    await self._hear(json.loads(line))
        await self._process.wait()
        for reply in self._replies.values():
            if not reply.done():
                reply.set_result({"error": f"{self.name} ended"})
        async with self._news:
            self._news.notify_all()

    async def _hear(self, message: Mapping[str, Any]) -> None:
        if "reply" in message:
            reply = self._replies.get(message["reply"])
            if reply is not None and not reply.done():
                reply.set_result(message)
            return
        if "fatal" in message:
            self.fatal = str(message["fatal"])
        else:
            self.heartbeat = Heartbeat(
                at=time.monotonic(),
                ready=bool(message["ready"]),
                draining=bool(message.get("draining", False)),
                reasons=dict(message.get("reasons", {})),
                numbers=dict(message.get("numbers", {})),
                facts=dict(message.get("facts", {})),
            )
            self.has_spoken = True
            self.has_been_ready = self.has_been_ready or self.heartbeat.ready
        async with self._news:
            self._news.notify_all()
