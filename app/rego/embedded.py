"""The embedded engine: rego-cpp in a child process of this worker.

The modules are those of the snapshot that serves; when they change, the child loads them anew, and questions wait for
that within their deadline: the same snapshot gives the same answer. A child that crashes, falls silent or takes too
long is replaced, within a budget: an input that kills it every time must not keep a core busy with starting processes.
While there is no child, there is no answer, and no answer is a denial.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from app.errors import AppError, ErrorCode
from app.limits import RegoLimits
from app.policy.rego_module import RegoModule, data_documents
from app.rego.process import RegoProcess
from app.rego.rule_engine import UNDEFINED_RULE, RuleValue

_log = structlog.get_logger(__name__)

Modules = Mapping[str, RegoModule]


@dataclass(slots=True)
class _Generation:
    """A child and the modules that were loaded into it, or will be."""

    modules: Modules
    started: asyncio.Task[RegoProcess]
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class EmbeddedEngine:
    """Implements `RuleEngine`. `modules` gives the modules that serve; the same mapping as long as none changed."""

    def __init__(
        self,
        modules: Callable[[], Modules],
        limits: RegoLimits,
        *,
        user: str = "nobody",
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._modules = modules
        self._limits = limits
        self._user = user
        self._monotonic = monotonic
        self._generation: _Generation | None = None
        self._starts: deque[float] = deque()
        self._waiting = 0
        self.restarts = 0

    @property
    def pid(self) -> int:
        """The process id of the child, 0 while there is none."""
        child = _child(self._generation)
        return child.pid if child is not None and child.is_open else 0

    def prepare(self) -> None:
        """Load what serves now, so that the first question need not wait for it."""
        if self._modules():
            try:
                self._current()
            except AppError as error:
                _log.warning("rego_not_prepared", reason=error.detail)

    async def evaluate(self, path: tuple[str, ...], input_json: bytes, *, deadline: float) -> RuleValue:
        """As `RuleEngine`."""
        if self._waiting >= self._limits.max_waiting:
            raise AppError(ErrorCode.OVERLOADED, "more questions wait for the Rego child than rego.max_waiting")
        self._waiting += 1
        try:
            async with asyncio.timeout(max(0.0, deadline - self._monotonic())):
                generation = self._current()
                child = await asyncio.shield(generation.started)
                async with generation.turn:
                    return await self._ask(child, path, input_json, deadline)
        except TimeoutError:
            raise AppError(ErrorCode.TIMEOUT, "the Rego child did not come to this question in time") from None
        finally:
            self._waiting -= 1

    async def close(self) -> None:
        """End the child."""
        generation, self._generation = self._generation, None
        if generation is not None:
            await _discard(generation)

    async def _ask(self, child: RegoProcess, path: tuple[str, ...], input_json: bytes, deadline: float) -> RuleValue:
        limits = self._limits
        within = min(limits.evaluate_seconds, deadline - self._monotonic())
        if within <= 0:
            raise AppError(ErrorCode.TIMEOUT, "the Rego child did not come to this question in time")
        answer = await child.ask("/".join(path), input_json, within_seconds=within, max_bytes=limits.max_result_bytes)
        if "error" in answer:
            raise AppError(ErrorCode.INVALID, str(answer["error"]))
        return RuleValue(True, answer["value"]) if "value" in answer else UNDEFINED_RULE

    def _current(self) -> _Generation:
        """The child for the modules that serve now, started when there is none.

        Raises:
            AppError: `UNAVAILABLE` when children ended too often of late.
        """
        modules, generation = self._modules(), self._generation
        if generation is not None:
            if generation.modules is modules and _is_alive(generation):
                return generation
            self._retire(generation)
        now = self._monotonic()
        while self._starts and now - self._starts[0] > self._limits.child_restart_window_seconds:
            self._starts.popleft()
        changed = generation is None or generation.modules is not modules
        if not changed:
            if len(self._starts) >= self._limits.child_restart_burst:
                raise AppError(ErrorCode.UNAVAILABLE, "the Rego child ended too often of late and rests")
            self._starts.append(now)
            self.restarts += 1
            _log.warning("rego_child_restarted", restarts=self.restarts)
        self._generation = _Generation(modules, asyncio.create_task(self._start(modules)))
        return self._generation

    async def _start(self, modules: Modules) -> RegoProcess:
        ordered = [modules[key] for key in sorted(modules)]
        if not ordered:
            raise AppError(ErrorCode.FAILED_PRECONDITION, "there is no RegoModule in the set")
        argument = load_argument(ordered)
        child = await RegoProcess.start(self._limits, user=self._user)
        try:
            answer = await child.send("load", argument, within_seconds=self._limits.load_seconds)
        except BaseException:
            child.kill()
            raise
        if "error" in answer:
            child.kill()
            raise AppError(ErrorCode.INVALID, f"the Rego modules do not load: {answer['error']}")
        _log.info("rego_modules_loaded", modules=len(ordered), pid=child.pid)
        return child

    def _retire(self, generation: _Generation) -> None:
        """End a child once whoever asks it now has an answer."""
        self._generation = None
        task = asyncio.create_task(_discard(generation))
        _RETIRING.add(task)
        task.add_done_callback(_RETIRING.discard)


_RETIRING: set[asyncio.Task[None]] = set()  # the loop keeps only weak references to tasks


def load_argument(modules: Sequence[RegoModule]) -> dict[str, Any]:
    """What a child is told to load.

    Raises:
        AppError: `INVALID` when the data of modules does not fit together.
    """
    return {"modules": [(module.file, module.rego) for module in modules], "data": data_documents(modules)}


def _is_alive(generation: _Generation) -> bool:
    if not generation.started.done():
        return True
    child = _child(generation)
    return child is not None and child.is_open


def _child(generation: _Generation | None) -> RegoProcess | None:
    """The child, once it has loaded."""
    if generation is None:
        return None
    task = generation.started
    if not task.done() or task.cancelled() or task.exception() is not None:
        return None
    return task.result()


async def _discard(generation: _Generation) -> None:
    if not generation.started.done():
        generation.started.cancel()
    await asyncio.wait([generation.started])
    child = _child(generation)
    if child is not None:
        async with generation.turn:
            await child.close()
