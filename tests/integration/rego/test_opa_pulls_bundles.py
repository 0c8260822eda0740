"""OPA servers pull our bundles over a real connection: a stand-in, and the real one where it is on the PATH."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from app.authority.actor import Actor, Role
from app.limits import HttpLimits
from app.rego.opa_address import OpaAddress
from app.rego.opa_decisions import OpaDecisions
from app.rego.rule_engine import RuleValue
from app.serving.binding import TcpEndpoint
from app.serving.http import HttpServer
from tests.support.administration import ALICE, policy
from tests.support.api import Api, running_api
from tests.support.opa import needs_opa, run_opa
from tests.support.opa_stand_in import OpaStandIn
from tests.support.rego import LIMITS, module_document, request_input


class Authority:
    """An API that listens, and a token for bundles."""

    def __init__(self, api: Api, url: str, token: str) -> None:
        self.api, self.url, self.token = api, url, token

    async def put(self, answer: int) -> None:
        """Store a module that says so, and publish it."""
        text = (
            f"package shop.authz\n\nanswer := {answer}\n\npolicies := [name | data.gatehouse.policies[_].shop[name]]\n"
        )
        value = module_document("authz", text, {"number": answer})
        administration = self.api.services.administration
        stored = await administration.list_policies(kind="RegoModule")
        await administration.put_policy(ALICE, value, expected=stored.items[0].etag if stored.items else None)
        await self.api.publisher.refresh()


@pytest.fixture
async def authority(tmp_path: Path) -> AsyncIterator[Authority]:
    async with running_api(tmp_path) as api, HttpServer(api.app, TcpEndpoint(), limits=HttpLimits()) as server:
        made = await api.services.administration.tokens.create(Actor.system(), name="opa", role=Role.BUNDLE)
        running = Authority(api, server.url, made.secret)
        await api.services.administration.put_policy(ALICE, policy())
        await running.put(1)
        yield running
        api.publisher.end_waits()


async def test_a_stand_in_pulls_both_bundles_and_their_changes(authority: Authority) -> None:
    """Once whole, then not again, then by a long poll as soon as there is another."""
    stand_in, url = OpaStandIn({}), f"{authority.url}/v1/opa/bundles/modules"

    assert 200 == await stand_in.pull_bundle(url, authority.token)
    first = stand_in.revision
    assert ({"shop": {"authz": {"number": 1}}}, ["/shop/authz.rego"]) == (stand_in.data, [*stand_in.policies])
    assert 304 == await stand_in.pull_bundle(url, authority.token)
    waiting = asyncio.create_task(stand_in.pull_bundle(url, authority.token, wait_seconds=10))
    await asyncio.sleep(0.1)
    await authority.put(2)
    assert 200 == await waiting
    assert "answer := 2" in stand_in.policies["/shop/authz.rego"]
    assert first != stand_in.revision
    assert 200 == await OpaStandIn({}).pull_bundle(f"{authority.url}/v1/opa/bundles/policies", authority.token)


@needs_opa
async def test_the_real_opa_pulls_both_bundles_and_their_changes(authority: Authority, tmp_path: Path) -> None:
    """By its own long poll; the set is data to its rules; and it activates nothing anew when something else changes."""
    config = {
        "services": {"gatehouse": {"url": authority.url, "credentials": {"bearer": {"token": authority.token}}}},
        "bundles": {
            name: {
                "service": "gatehouse",
                "resource": f"v1/opa/bundles/{name}",
                "polling": {"long_polling_timeout_seconds": 10, "min_delay_seconds": 1, "max_delay_seconds": 1},
            }
            for name in ("modules", "policies")
        },
    }
    (tmp_path / "opa.json").write_text(json.dumps(config))
    async with run_opa(tmp_path, "--config-file", "opa.json") as url:
        decisions = OpaDecisions(OpaAddress.parse(url), LIMITS)
        try:
            await _until(decisions, ("shop", "authz", "answer"), 1)
            await authority.put(2)
            await _until(decisions, ("shop", "authz", "answer"), 2)
            await _until(decisions, ("shop", "authz", "number"), 2)
            await _until(decisions, ("shop", "authz", "policies"), ["cart"])
        finally:
            await decisions.close()


async def _until(decisions: OpaDecisions, path: tuple[str, ...], value: Any) -> None:
    """Ask until the rule says so."""
    async with asyncio.timeout(15):
        while True:
            found = await decisions.evaluate(path, request_input(), deadline=time.monotonic() + 5)
            if found == RuleValue(True, value):
                return
            await asyncio.sleep(0.05)
