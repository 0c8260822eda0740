"""Which engine answers for which Provider document."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from app.bootstrap.providers import Providers
from app.decision.attributes import CheckAttributes
from app.decision.ports import ProviderAnswer, ProviderQuestion
from app.policy.provider import Provider, RegoEngine, RegoSpec


@dataclass
class _Engine:
    followed: list[Any] = field(default_factory=list)

    async def ask(self, _question: ProviderQuestion) -> ProviderAnswer:
        return ProviderAnswer(True)

    def follow(self, state: Any) -> None:
        self.followed.append(state)


def _question(engine: RegoEngine) -> ProviderQuestion:
    return ProviderQuestion(Provider(name="p", rego=RegoSpec(engine=engine)), CheckAttributes(), "", 1.0)


async def test_the_engine_of_the_provider_answers() -> None:
    """A form that this worker cannot evaluate denies, and says so."""
    providers = Providers({RegoEngine.OPA: _Engine()})
    assert (await providers.ask(_question(RegoEngine.OPA))).allowed
    unknown = await providers.ask(_question(RegoEngine.EMBEDDED))
    assert (False, True) == (unknown.allowed, "embedded" in unknown.hint)
    formless = ProviderQuestion(Provider(name="p"), CheckAttributes(), "", 1.0)
    assert not (await providers.ask(formless)).allowed


def test_every_engine_hears_of_a_new_snapshot() -> None:
    """It prepares what it needs before anybody asks."""
    engines = {engine: _Engine() for engine in RegoEngine}
    state: Any = object()
    Providers(engines).follow(state)
    assert [[state], [state]] == [engine.followed for engine in engines.values()]
