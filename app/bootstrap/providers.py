"""The providers of a decision worker: who answers for which Provider document.

Engines are built once for a worker; `follow` tells them which documents there are whenever a snapshot is swapped in.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

from app.bootstrap.rego_engines import rego_engines
from app.decision.ports import PolicyProvider, ProviderAnswer, ProviderQuestion
from app.decision.state import DecisionState
from app.policy.provider import RegoEngine
from app.settings import Settings


class Engine(PolicyProvider, Protocol):
    """A way to answer, for every provider of its form."""

    def follow(self, state: DecisionState) -> None:
        """From now on this is what is served; takes no time: whatever takes some is done in the background."""
        ...


class Providers:
    """Hands each question to the engine of its provider; a form that this worker cannot evaluate denies."""

    def __init__(self, engines: Mapping[RegoEngine, Engine]) -> None:
        self._engines = engines

    async def ask(self, question: ProviderQuestion) -> ProviderAnswer:
        """The engine's answer."""
        rego = question.provider.rego
        engine = None if rego is None else self._engines.get(rego.engine)
        if engine is None:
            form = "this kind of provider" if rego is None else f"rego with engine {rego.engine.value}"
            return ProviderAnswer(False, hint=f"this worker cannot evaluate {form}")
        return await engine.ask(question)

    def follow(self, state: DecisionState) -> None:
        """Tell every engine what is served."""
        for engine in self._engines.values():
            engine.follow(state)


@asynccontextmanager
async def open_providers(settings: Settings) -> AsyncIterator[Providers]:
    """The providers of a worker, with their engines running while the context is open.

    Raises:
        AppError: `INVALID` when a file that the settings name cannot be read.
    """
    async with rego_engines(settings) as engines:
        yield Providers(engines)
