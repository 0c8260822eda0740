"""A provider in the test's own process, which answers as it was told and remembers what it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from app.decision.ports import ProviderAnswer, ProviderQuestion

Answering = ProviderAnswer | Exception | Callable[[ProviderQuestion], Awaitable[ProviderAnswer]]

ALLOWS = ProviderAnswer(True)
DENIES = ProviderAnswer(False, hint="not in business hours")


@dataclass
class FakeProviders:
    """Answers by the provider's name; whoever has no answer is silent until the question is cancelled."""

    answers: dict[str, Answering] = field(default_factory=dict)
    asked: list[ProviderQuestion] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    waiting: asyncio.Event = field(default_factory=asyncio.Event)

    async def ask(self, question: ProviderQuestion) -> ProviderAnswer:
        """As the port demands."""
        self.asked.append(question)
        name = question.provider.name
        answer = self.answers.get(name)
        if answer is None:
            self.waiting.set()
            try:
                return await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                self.cancelled.append(name)
                raise
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, ProviderAnswer) else await answer(question)


def provider(name: str, **spec: Any) -> dict[str, Any]:
    """A Provider document."""
    return {
        "apiVersion": "gatehouse.dev/v1",
        "kind": "Provider",
        "metadata": {"name": name},
        "spec": {"rego": {"engine": "embedded"}, **spec},
    }
