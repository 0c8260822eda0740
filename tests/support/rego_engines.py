"""The engines of Rego, holding the modules that a test gives them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from app.policy.rego_module import RegoModule
from app.rego.embedded import EmbeddedEngine
from app.rego.opa_address import OpaAddress
from app.rego.opa_administration import OpaAdministration
from app.rego.opa_decisions import OpaDecisions
from app.rego.rule_engine import RuleEngine
from tests.support.opa import needs_opa, run_opa
from tests.support.rego import LIMITS, modules, needs_regopy

REAL_ENGINES = [pytest.param("embedded", marks=needs_regopy), pytest.param("opa", marks=needs_opa)]


@asynccontextmanager
async def embedded(held: Sequence[RegoModule]) -> AsyncIterator[RuleEngine]:
    """The child process."""
    serving = modules(*held)
    engine = EmbeddedEngine(lambda: serving, LIMITS)
    try:
        yield engine
    finally:
        await engine.close()


@asynccontextmanager
async def decisions(url: str) -> AsyncIterator[OpaDecisions]:
    """What is asked of an OPA at an address."""
    asked = OpaDecisions(OpaAddress.parse(url), LIMITS)
    try:
        yield asked
    finally:
        await asked.close()


async def push(url: str, held: Sequence[RegoModule]) -> None:
    """Give modules to an OPA."""
    async with OpaAdministration(OpaAddress.parse(url), LIMITS) as administration:
        await administration.push(held)
        assert await administration.is_healthy()


@asynccontextmanager
async def real_engine(name: str, held: Sequence[RegoModule], folder: Path) -> AsyncIterator[RuleEngine]:
    """One of REAL_ENGINES."""
    if name == "embedded":
        async with embedded(held) as engine:
            yield engine
    else:
        async with run_opa(folder) as url, decisions(url) as engine:
            await push(url, held)
            yield engine
