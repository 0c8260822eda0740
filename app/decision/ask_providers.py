"""Asks the providers that a Check needs, all at once and within its budget. Whoever does not answer has denied."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import structlog

from app.decision.attributes import CheckAttributes
from app.decision.counters import CheckCounters, ProviderOutcome
from app.decision.ports import PolicyProvider, ProviderAnswer, ProviderQuestion
from app.limits import CheckLimits
from app.policy.provider import Provider

_log = structlog.get_logger(__name__)

PARTIAL_BODY = (
    "x-envoy-auth-partial-body"  # Envoy takes away the client's own, and says whether it sent all of the body
)
_UNKNOWN_HINT = "there is no Provider document of this name"
_PARTIAL_HINT = "only the beginning of the body was sent: raise the proxy's bound on bodies, or set allowPartialBody"
_LOG_ERRORS_EVERY = 10.0  # seconds
_BACKSTOP_SECONDS = 0.005  # until who was told to stop is not waited for any more
# What the configuration and the filters of a proxy say; worth something only when it is a proxy that we know.
_FROM_KNOWN_PROXIES = ("contextExtensions", "metadataContext", "routeMetadataContext")


@dataclass(frozen=True, slots=True)
class Needed:
    """What one Check asks: providers by name in order, None for a name that no document has."""

    providers: Mapping[str, Provider | None]
    attributes: CheckAttributes
    principal: str
    claims: Mapping[str, Any] | None
    snapshot: int


def without_context(attributes: CheckAttributes) -> CheckAttributes:
    """The attributes without what only a registered proxy is believed."""
    make = attributes.document
    if make is None:
        return attributes

    def document() -> dict[str, Any]:
        members = make()
        for name in _FROM_KNOWN_PROXIES:
            members.pop(name, None)
        return members

    return replace(attributes, document=document, context_extensions=None)


class ProviderDesk:
    """Asks a worker's providers, and bounds how many questions there are at a time."""

    def __init__(self, provider: PolicyProvider, *, limits: CheckLimits, counters: CheckCounters) -> None:
        self._provider = provider
        self._limits = limits
        self._counters = counters
        self._open: set[asyncio.Task[ProviderAnswer]] = set()
        self._logged_error_at = float("-inf")

    @property
    def in_flight(self) -> int:
        """Questions that were asked and have not ended."""
        return len(self._open)

    async def ask(self, needed: Needed, deadline: float) -> Mapping[str, ProviderAnswer] | None:
        """An answer for every provider, at the deadline (loop time) at the latest. Cancelled, it cancels the questions.

        None when too many questions are in flight; then nobody was asked.
        """
        answers: dict[str, ProviderAnswer] = {}
        questions: dict[str, ProviderQuestion] = {}
        now = asyncio.get_running_loop().time()
        for name, provider in needed.providers.items():
            if provider is None:
                answers[name] = self._denied(name, ProviderOutcome.UNKNOWN, _UNKNOWN_HINT)
            elif not provider.allow_partial_body and is_partial(needed.attributes):
                answers[name] = self._denied(name, ProviderOutcome.PARTIAL_BODY, _PARTIAL_HINT)
            else:
                until = min(deadline, now + provider.timeout)
                questions[name] = ProviderQuestion(
                    provider, needed.attributes, needed.principal, until, needed.claims, needed.snapshot
                )
        if len(self._open) + len(questions) > self._limits.max_provider_questions:
            return None
        if questions:
            answers |= await self._ask_all(questions, deadline)
        return answers

    async def _ask_all(self, questions: Mapping[str, ProviderQuestion], deadline: float) -> dict[str, ProviderAnswer]:
        loop = asyncio.get_running_loop()
        tasks = {name: loop.create_task(self._ask(name, question)) for name, question in questions.items()}
        for task in tasks.values():
            self._open.add(task)
            task.add_done_callback(self._open.discard)
        try:
            # The tasks keep the time themselves. Who does not heed that is left alone, not waited for.
            await asyncio.wait(tasks.values(), timeout=max(0.0, deadline - loop.time()) + _BACKSTOP_SECONDS)
            return {
                name: task.result() if task.done() and not task.cancelled() else self._late(name)
                for name, task in tasks.items()
            }
        finally:
            for task in tasks.values():
                task.cancel()

    async def _ask(self, name: str, question: ProviderQuestion) -> ProviderAnswer:
        try:
            async with asyncio.timeout_at(question.deadline):
                answer = await self._provider.ask(question)
        except TimeoutError:
            return self._late(name)
        except Exception as error:  # noqa: BLE001 - an exception would be an error to Envoy, and may fail open
            self._note_error(name, error)
            return self._denied(name, ProviderOutcome.FAILED, "asking failed inside the worker; its log has the reason")
        self._counters.add_provider(name, ProviderOutcome.ALLOWED if answer.allowed else ProviderOutcome.DENIED)
        return answer

    def _note_error(self, name: str, error: Exception) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._logged_error_at >= _LOG_ERRORS_EVERY:
            self._logged_error_at = now
            _log.error("provider_failed", provider=name, exc_info=error)

    def _late(self, name: str) -> ProviderAnswer:
        return self._denied(name, ProviderOutcome.TIMEOUT, "no answer in time")

    def _denied(self, name: str, outcome: ProviderOutcome, hint: str) -> ProviderAnswer:
        self._counters.add_provider(name, outcome)
        return ProviderAnswer(False, hint=hint)


def is_partial(attributes: CheckAttributes) -> bool:
    """Whether the proxy says that it sent only the beginning of the body."""
    return any("true" in value.lower() for value in attributes.headers.get(PARTIAL_BODY, ()))
