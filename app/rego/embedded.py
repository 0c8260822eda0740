"""The embedded engine: rego-cpp in a child process of this worker.

The modules are those of the snapshot that serves. When they change, another child loads them and compiles the rules
that were asked for; until it is ready, a fraction of a second, the child before answers: a change must deny nobody. A
child that crashes, falls silent or takes too long is replaced, within a budget: an input that kills it every time must
not keep a core busy with starting processes. While there is no child, there is no answer, and no answer is a denial.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog

from app.errors import AppError, ErrorCode
from app.limits import RegoLimits
from app.policy.rego_module import ALL_MODULES, ModuleSelection, RegoModule, data_documents
from app.rego.process import RegoProcess
from app.rego.rule_engine import UNDEFINED_RULE, RuleValue
from app.telemetry.metrics import REGO_RESTARTS

_log = structlog.get_logger(__name__)

Modules = Mapping[str, RegoModule]


@dataclass(slots=True)
class _Generation:
    """A child for one state of the modules, and what was loaded into it so far."""

    modules: Modules
    started: asyncio.Task[RegoProcess]
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    loaded: dict[ModuleSelection, asyncio.Task[str]] = field(default_factory=dict)
    rules: dict[ModuleSelection, dict[str, None]] = field(default_factory=dict)  # that were asked for, in order


class EmbeddedEngine:
    """Implements `RuleEngine` over all modules.

    `modules` gives the modules that serve: the same mapping as long as none of them changed.
    """

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
        self._generation: _Generation | None = None  # who answers
        self._coming: _Generation | None = None  # who will, once it has loaded what changed
        self._starts: deque[float] = deque()
        self._retiring: set[asyncio.Task[None]] = set()  # the loop keeps only weak references to tasks
        self._waiting = 0
        self.restarts = 0

    @property
    def pid(self) -> int:
        """The process id of the child, 0 while there is none."""
        child = _child(self._generation)
        return child.pid if child is not None and child.is_open else 0

    def prepare(self, wanted: Mapping[ModuleSelection, Iterable[str]]) -> None:
        """Load what serves now, and compile the rules (as paths) of each selection that will be asked for."""
        for selection, rules in wanted.items():
            try:
                generation = self._current(selection, rules)
                self._load(self._coming or generation, selection, rules)
            except AppError as error:
                _log.warning("rego_not_prepared", reason=error.detail)

    def rest(self) -> None:
        """End the child: nobody asks for a rule any more. Should somebody, there will be another."""
        for generation in (self._generation, self._coming):
            if generation is not None:
                self._retire(generation)
        self._generation = self._coming = None

    async def evaluate(
        self,
        path: tuple[str, ...],
        input_json: bytes,
        *,
        deadline: float,
        selection: ModuleSelection = ALL_MODULES,
    ) -> RuleValue:
        """As `RuleEngine`; over the modules that a provider selects."""
        if self._waiting >= self._limits.max_waiting:
            raise AppError(ErrorCode.OVERLOADED, "more questions wait for the Rego child than rego.max_waiting")
        self._waiting += 1
        try:
            async with asyncio.timeout(max(0.0, deadline - self._monotonic())):
                return await self._evaluate("/".join(path), input_json, selection)
        except TimeoutError:
            raise AppError(ErrorCode.TIMEOUT, "the Rego child did not answer in time") from None
        finally:
            self._waiting -= 1

    async def close(self) -> None:
        """End the child; who still waits for it gets `UNAVAILABLE`."""
        for generation in (self._generation, self._coming):
            child = _child(generation)
            if child is not None:
                child.kill()
        self.rest()
        await asyncio.gather(*self._retiring)

    async def _evaluate(self, path: str, input_json: bytes, selection: ModuleSelection) -> RuleValue:
        while True:
            generation = self._current(selection, (path,))
            name = await asyncio.shield(self._load(generation, selection, (path,)))
            await generation.turn.acquire()
            if not generation.started.result().is_open:  # it ended under the question before this one
                generation.turn.release()
                continue
            # Who does not wait any more leaves the child to its bound: to kill it for that would harm the next.
            exchange = asyncio.create_task(self._ask(generation, name, path, input_json))
            exchange.add_done_callback(partial(_end_turn, generation))
            return await asyncio.shield(exchange)

    async def _ask(self, generation: _Generation, selection: str, path: str, input_json: bytes) -> RuleValue:
        limits, child = self._limits, generation.started.result()
        answer = await child.ask(
            selection,
            path,
            input_json,
            within_seconds=limits.evaluate_seconds,
            max_bytes=limits.max_result_bytes,
        )
        if "error" in answer:
            raise AppError(ErrorCode.INVALID, str(answer["error"]))
        return RuleValue(True, answer["value"]) if "value" in answer else UNDEFINED_RULE

    def _current(self, selection: ModuleSelection, rules: Iterable[str]) -> _Generation:
        """Who answers for a selection now.

        Raises:
            AppError: `UNAVAILABLE` when children ended too often of late; `FAILED_PRECONDITION` without modules.
        """
        modules, before = self._modules(), self._generation
        if before is not None and before.modules is modules and _is_alive(before):
            return before
        if not modules:
            raise AppError(ErrorCode.FAILED_PRECONDITION, "there is no RegoModule in the set")
        if before is not None and before.modules is modules:
            self._count_restart(before)
            self._retire(before)
            self._generation = self._begin(modules, before)
            return self._generation
        coming = self._coming
        if coming is None or coming.modules is not modules:
            if coming is not None:
                self._retire(coming)
            coming = self._coming = self._begin(modules, before)
        if before is None or not _is_alive(before) or _is_settled(coming):
            if before is not None:
                self._retire(before)
            self._generation, self._coming = coming, None
            return coming
        if selection not in before.loaded:  # what it had is of no use to who asks for the first time
            self._load(coming, selection, rules)
            return coming
        return before

    def _begin(self, modules: Modules, before: _Generation | None) -> _Generation:
        """Start a child, and have it load what the one before had loaded."""
        generation = _Generation(modules, asyncio.create_task(RegoProcess.start(self._limits, user=self._user)))
        generation.started.add_done_callback(_look)
        if before is not None:
            for selection, rules in before.rules.items():
                self._load(generation, selection, rules)
        return generation

    def _count_restart(self, ended: _Generation) -> None:
        now = self._monotonic()
        while self._starts and now - self._starts[0] > self._limits.child_restart_window_seconds:
            self._starts.popleft()
        if len(self._starts) >= self._limits.child_restart_burst:
            raise AppError(ErrorCode.UNAVAILABLE, f"the Rego child ended too often of late and rests{_why(ended)}")
        self._starts.append(now)
        self.restarts += 1
        REGO_RESTARTS.inc()
        _log.warning("rego_child_restarted", restarts=self.restarts)

    def _load(self, generation: _Generation, selection: ModuleSelection, rules: Iterable[str]) -> asyncio.Task[str]:
        """The loading of a selection, begun when it was not; its result is the name by which the child knows it."""
        task = generation.loaded.get(selection)
        known = generation.rules.setdefault(selection, {})
        if len(known) < self._limits.max_rules_compiled:
            known.update(dict.fromkeys(rules))
        if task is None:
            if len(generation.loaded) >= self._limits.max_selections:
                raise AppError(ErrorCode.OVERLOADED, "providers select in more ways than rego.max_selections")
            name = str(len(generation.loaded))
            task = asyncio.create_task(self._loaded(generation, selection, name))
            generation.loaded[selection] = task
            task.add_done_callback(_look)
        return task

    async def _loaded(self, generation: _Generation, selection: ModuleSelection, name: str) -> str:
        """A failure is remembered as long as the child lives: the same modules would fail again."""
        modules = selection.of(generation.modules.values())
        argument = {
            "selection": name,
            "modules": [(module.file, module.rego) for module in modules],
            "data": data_documents(modules),
            "rules": list(generation.rules[selection]),
        }
        child = await asyncio.shield(generation.started)
        async with generation.turn:
            answer = await child.send("load", argument, within_seconds=self._limits.load_seconds)
        if "error" in answer:
            raise AppError(ErrorCode.INVALID, f"the Rego modules do not load: {answer['error']}")
        _log.info("rego_modules_loaded", modules=len(modules), pid=child.pid)
        return name

    def _retire(self, generation: _Generation) -> None:
        """End a child once whoever asks it now has an answer."""
        task = asyncio.create_task(_discard(generation))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)


class SelectedModules:
    """Implements `RuleEngine` over a selection of the modules of an embedded engine."""

    def __init__(self, engine: EmbeddedEngine, selection: ModuleSelection) -> None:
        self._engine = engine
        self._selection = selection

    async def evaluate(self, path: tuple[str, ...], input_json: bytes, *, deadline: float) -> RuleValue:
        """As `RuleEngine`."""
        return await self._engine.evaluate(path, input_json, deadline=deadline, selection=self._selection)


def _is_alive(generation: _Generation) -> bool:
    if not generation.started.done():
        return True
    child = _child(generation)
    return child is not None and child.is_open


def _is_settled(generation: _Generation) -> bool:
    """Whether it has loaded, or failed to load, everything that it was told to."""
    return generation.started.done() and all(task.done() for task in generation.loaded.values())


def _child(generation: _Generation | None) -> RegoProcess | None:
    """The child, once it runs."""
    if generation is None:
        return None
    task = generation.started
    if not task.done() or task.cancelled() or task.exception() is not None:
        return None
    return task.result()


def _why(generation: _Generation) -> str:
    """Why a child did not even start; empty when it did."""
    task = generation.started
    error = None if not task.done() or task.cancelled() else task.exception()
    return f": {error.detail}" if isinstance(error, AppError) else ""


def _end_turn(generation: _Generation, exchange: asyncio.Task[RuleValue]) -> None:
    generation.turn.release()
    if not exchange.cancelled():
        exchange.exception()  # looked at, also when nobody waits any more


def _look(task: asyncio.Task[Any]) -> None:
    """Look at the failure of a task that nobody may be waiting for."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("rego_modules_not_loaded", reason=getattr(error, "detail", type(error).__name__))


async def _discard(generation: _Generation) -> None:
    async with generation.turn:
        tasks = [generation.started, *generation.loaded.values()]
        for task in tasks:
            if not task.done():
                task.cancel()
        await asyncio.wait(tasks)
        child = _child(generation)
        if child is not None:
            await child.close()
