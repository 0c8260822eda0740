"""One running confined child, seen from the process that started it: a question, its answer, and an end in any case."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import app
from app.confinement.frames import receive_frame
from app.errors import AppError, ErrorCode

HELLO = "ready"
_SMALL_FRAME_BYTES = 65_536
_EXIT_SECONDS = 0.5  # from hanging up to being gone; it has given back its memory before


class ConfinedChild:
    """A started child that answers one question after the other, in frames. Not for two callers at once."""

    def __init__(self, process: Process) -> None:
        """Take a process that was just started."""
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._questions, self._answers = process, process.stdin, process.stdout
        self.is_open = True

    @classmethod
    async def start(cls, module: str, arguments: Sequence[str], *, within_seconds: float) -> Self:
        """A child of our own that has said hello: `python -m MODULE ARGUMENTS`, with an environment of nothing.

        Raises:
            AppError: `FAILED_PRECONDITION` when it says that it cannot be; `UNAVAILABLE` when it ends or is not
                ready in time.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            *arguments,
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
        hello = await child.receive(within_seconds, _SMALL_FRAME_BYTES)
        if HELLO not in hello:
            await child.close()
            raise AppError(ErrorCode.FAILED_PRECONDITION, str(hello.get("failed", "it does not start")))
        return child

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    async def call(self, question: bytes, *, within_seconds: float, max_bytes: int) -> Any:
        """Send frames, and take the JSON of the next answer.

        Raises:
            AppError: as `receive`.
        """
        self.send(question)
        return await self.receive(within_seconds, max_bytes)

    def send(self, data: bytes) -> None:
        """Hand bytes to the pipe; what became of them shows in the answer.

        Raises:
            AppError: `UNAVAILABLE` when the child ended before.
        """
        if not self.is_open:
            raise _ended()
        with suppress(ConnectionError, RuntimeError):
            self._questions.write(data)

    async def drained(self, within_seconds: float) -> None:
        """Wait until the child has taken most of what was sent, so that what is sent piece by piece does not pile up.

        Raises:
            AppError: `TIMEOUT`; the child is dead then.
        """
        try:
            async with asyncio.timeout(max(0.0, within_seconds)):
                with suppress(ConnectionError):
                    await self._questions.drain()
        except BaseException as error:
            self.kill()
            if isinstance(error, TimeoutError):
                raise _late(within_seconds) from None
            raise

    async def receive(self, within_seconds: float, max_bytes: int) -> Any:
        """The next answer; whatever else happens, also a cancellation, the child is of no use any more.

        Raises:
            AppError: `TIMEOUT`, `UNAVAILABLE` or `INTERNAL`; the child is dead then.
        """
        try:
            async with asyncio.timeout(max(0.0, within_seconds)):
                return json.loads(await receive_frame(self._answers, max_bytes))
        except TimeoutError:
            self.kill()
            raise _late(within_seconds) from None
        except (EOFError, ConnectionError):
            await self._end_by_itself()
            raise _ended() from None
        except ValueError:
            self.kill()
            raise AppError(ErrorCode.INTERNAL, "its answer is too large or no JSON") from None
        except BaseException:
            self.kill()
            raise

    async def _end_by_itself(self) -> None:
        """Let a child that hung up be gone before it is killed, for killing it first may lose its exit code."""
        self.is_open = False
        self._questions.close()
        try:
            async with asyncio.timeout(_EXIT_SECONDS):
                await self._process.wait()
        except TimeoutError:
            pass
        finally:
            self.kill()

    def kill(self) -> None:
        """End it at once."""
        self.is_open = False
        with suppress(ProcessLookupError):
            self._process.kill()
        self._questions.close()

    async def close(self) -> int:
        """End it, and wait for that; how it ended, as the exit code or the negative signal."""
        self.kill()
        return await self._process.wait()


def _late(seconds: float) -> AppError:
    return AppError(ErrorCode.TIMEOUT, f"no answer within {seconds:.3g} s")


def _ended() -> AppError:
    return AppError(ErrorCode.UNAVAILABLE, "the process that evaluates ended")
