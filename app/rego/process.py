"""One running Rego child, seen from the process that started it: a question, its answer, and an end in any case."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import app
from app.errors import AppError, ErrorCode
from app.limits import RegoLimits
from app.rego.child import HELLO
from app.rego.frames import MAX_FRAME_BYTES, frame, json_frame, receive_frame

_MODULE = "app.rego.child"
_SMALL_FRAME_BYTES = 65_536


class RegoProcess:
    """A started child that answers one question after the other. Not for two callers at once."""

    def __init__(self, process: Process) -> None:
        """Take a process that was just started."""
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._questions, self._answers = process, process.stdin, process.stdout
        self.is_open = True

    @classmethod
    async def start(cls, limits: RegoLimits, *, user: str) -> Self:
        """A child that is ready.

        Raises:
            AppError: `FAILED_PRECONDITION` when the library is not installed or the child cannot be confined;
                `UNAVAILABLE` when it ends or is not ready in time.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            _MODULE,
            str(limits.memory_bytes),
            user,
            str(limits.max_rules_compiled),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            env={
                "PYTHONPATH": str(Path(app.__file__).parent.parent),
                "PYTHONSAFEPATH": "1",
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            start_new_session=True,
        )
        child = cls(process)
        hello = await child._receive(limits.start_seconds, _SMALL_FRAME_BYTES)
        if HELLO not in hello:
            await child.close()
            raise AppError(ErrorCode.FAILED_PRECONDITION, str(hello.get("failed", "it does not start")))
        return child

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    async def ask(self, selection: str, path: str, input_json: bytes, *, within_seconds: float, max_bytes: int) -> Any:
        """Evaluate a rule over loaded modules: an object with `value`, with `error`, or empty when it is undefined.

        Raises:
            AppError: `TIMEOUT` or `UNAVAILABLE`; the child is dead then.
        """
        question = json_frame(["ask", [selection, path]]) + frame(input_json)
        return await self._call(question, within_seconds=within_seconds, max_bytes=max_bytes)

    async def send(self, verb: str, argument: Any, *, within_seconds: float) -> Any:
        """Load or check modules.

        Raises:
            AppError: `TOO_LARGE`; `TIMEOUT` or `UNAVAILABLE`, and the child is dead then.
        """
        question = json_frame([verb, argument])
        if len(question) > MAX_FRAME_BYTES:
            raise AppError(ErrorCode.TOO_LARGE, "the modules and their data are too large for the embedded engine")
        return await self._call(question, within_seconds=within_seconds, max_bytes=MAX_FRAME_BYTES)

    async def _call(self, question: bytes, *, within_seconds: float, max_bytes: int) -> Any:
        if not self.is_open:
            raise _ended()
        with suppress(ConnectionError, RuntimeError):  # what became of it shows in the answer
            self._questions.write(question)
        return await self._receive(within_seconds, max_bytes)

    async def _receive(self, within_seconds: float, max_bytes: int) -> Any:
        """The next answer; whatever else happens, also a cancellation, the child is of no use any more."""
        try:
            async with asyncio.timeout(max(0.0, within_seconds)):
                return json.loads(await receive_frame(self._answers, max_bytes))
        except TimeoutError:
            self.kill()
            raise AppError(ErrorCode.TIMEOUT, f"no answer within {within_seconds:.3g} s") from None
        except (EOFError, ConnectionError):
            self.kill()
            raise _ended() from None
        except ValueError:
            self.kill()
            raise AppError(ErrorCode.INTERNAL, "its answer is too large or no JSON") from None
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """End it at once."""
        self.is_open = False
        with suppress(ProcessLookupError):
            self._process.kill()
        self._questions.close()

    async def close(self) -> None:
        """End it, and wait for that."""
        self.kill()
        await self._process.wait()


def _ended() -> AppError:
    return AppError(ErrorCode.UNAVAILABLE, "the process that evaluates ended")
