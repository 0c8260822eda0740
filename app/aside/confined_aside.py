"""Long work over sets in a child of its own, so that nothing else in this process waits for it.

The child is started by the first question and kept, with the sets that it compiled. Questions are answered one at a
time; one that takes too long or too much memory ends the child, and the next question starts another one.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from itertools import islice
from typing import Any, TypeVar

import structlog

from app.aside.child import OUT_OF_MEMORY
from app.authority.ports import SetSource
from app.confinement.confined_child import ConfinedChild
from app.confinement.frames import MAX_FRAME_BYTES, json_frame
from app.errors import AppError, ErrorCode, FieldError
from app.limits import PolicyLimits

T = TypeVar("T")

_log = structlog.get_logger(__name__)

_MODULE = "app.aside.child"
_MAX_SETS = 3  # that a child keeps: the live one, and two old ones for a comparison
_PIECE = 50  # documents or services of one frame: a millisecond of the event loop
_NARROW = "narrow it: name a service, an enforcement point, or more of the request"


class ConfinedAside:
    """Implements `Aside` with a child process."""

    def __init__(self, limits: PolicyLimits) -> None:
        self._limits = limits
        self._turns = asyncio.Lock()
        self._waiting = 0
        self._child: ConfinedChild | None = None
        self._held: dict[str, int] = {}  # by name of a set: which number of it the child has, oldest use first

    @property
    def pid(self) -> int:
        """The process id of the child, 0 when none runs."""
        return self._child.pid if self._child is not None and self._child.is_open else 0

    async def run(
        self, work: str, sets: Sequence[SetSource], argument: Callable[[], Any], values: Sequence[Any] = ()
    ) -> Any:
        """As `Aside`."""
        async with self._turn():
            child = await self._open_child()
            until = asyncio.get_running_loop().time() + self._limits.question_seconds
            child.send(json_frame(["clear", None]))
            try:
                for each in sets:
                    await self._bring_up_to_date(child, each, until)
                await _send_pieces(child, "values", _pieces(values), until)
                question = {"work": work, "sets": [each.name for each in sets], "argument": argument()}
                answer = await self._call(child, "run", question, until)
            except AppError as error:
                if child.is_open:
                    raise
                raise self._gave_up(error, await child.close()) from error
            finally:
                if not child.is_open:
                    await self._bury(child)
            self._forget_others(child, [each.name for each in sets])
            return answer

    async def close(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        if child is not None:
            await child.close()

    async def _open_child(self) -> ConfinedChild:
        if self._child is not None and self._child.is_open:
            return self._child
        self._held.clear()
        limits = self._limits
        arguments = (str(limits.question_memory_bytes),)
        child = await ConfinedChild.start(_MODULE, arguments, within_seconds=limits.question_start_seconds)
        self._child = child
        child.send(json_frame(asdict(limits)))
        _log.info("aside_started", pid=child.pid)
        return child

    async def _bring_up_to_date(self, child: ConfinedChild, source: SetSource, until: float) -> None:
        held = self._held.get(source.name, -1)
        delta = await source.since(held)
        if delta.number != held:
            await _send_pieces(child, "documents", map(dict, _pieces(delta.documents.items())), until)
            await _send_pieces(child, "services", map(dict, _pieces(delta.services.items())), until)
            await self._call(child, "keep", {"name": source.name, "whole": held < 0}, until)
        self._held.pop(source.name, None)
        self._held[source.name] = delta.number

    def _forget_others(self, child: ConfinedChild, used: Sequence[str]) -> None:
        for name in [name for name in self._held if name not in used][: max(0, len(self._held) - _MAX_SETS)]:
            del self._held[name]
            child.send(json_frame(["forget", name]))

    async def _call(self, child: ConfinedChild, verb: str, argument: Any, until: float) -> Any:
        question = json_frame([verb, argument])
        answer = await child.call(question, within_seconds=_left(until), max_bytes=MAX_FRAME_BYTES)
        if "error" in answer:
            raise _error_of(answer["error"])
        return answer["value"]

    def _gave_up(self, error: AppError, code: int) -> AppError:
        limits = self._limits
        if code == OUT_OF_MEMORY:
            most = limits.question_memory_bytes // 1_048_576
            return AppError(ErrorCode.TOO_LARGE, f"the question takes more than {most} MiB of memory; {_NARROW}")
        if error.code is ErrorCode.TIMEOUT or code == -signal.SIGXCPU:
            seconds = f"{limits.question_seconds:.3g} s"
            return AppError(ErrorCode.TIMEOUT, f"the question takes longer than {seconds}; {_NARROW}")
        if error.code is ErrorCode.INTERNAL:
            return AppError(ErrorCode.TOO_LARGE, f"the answer is too large; {_NARROW}")
        detail = f"the process that answers such questions ended; ask again, and if it does again, {_NARROW}"
        return AppError(ErrorCode.UNAVAILABLE, detail, diagnosis=f"exit code {code}")

    async def _bury(self, child: ConfinedChild) -> None:
        self._child = None
        self._held.clear()
        _log.warning("aside_ended", pid=child.pid, code=await child.close())

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        if self._waiting > self._limits.max_waiting_questions:
            raise AppError(ErrorCode.OVERLOADED, "other questions of this size wait for their answer; ask again later")
        self._waiting += 1
        try:
            async with self._turns:
                yield
        finally:
            self._waiting -= 1


async def _send_pieces(child: ConfinedChild, verb: str, pieces: Iterable[Any], until: float) -> None:
    """So that neither making JSON of many documents nor sending it holds up the event loop."""
    for piece in pieces:
        child.send(json_frame([verb, piece]))
        await child.drained(_left(until))
        await asyncio.sleep(0)


def _pieces(values: Iterable[T]) -> Iterator[list[T]]:
    left = iter(values)
    while piece := list(islice(left, _PIECE)):
        yield piece


def _left(until: float) -> float:
    return until - asyncio.get_running_loop().time()


def _error_of(raw: Any) -> AppError:
    errors = tuple(FieldError(pointer, message) for pointer, message in raw["errors"])
    return AppError(ErrorCode(raw["code"]), raw["detail"], errors=errors, diagnosis=raw["diagnosis"])
