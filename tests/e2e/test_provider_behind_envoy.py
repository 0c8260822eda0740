"""A provider that looks at bodies and says who the user is, asked by a worker that the real Envoy asks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.decision.ports import ProviderAnswer, ProviderQuestion
from app.demo.waypoint import Credentials, ExtAuthz, HboneClient, Sidecar, Tunnel, WaypointOptions
from app.policy.effects import Effects
from tests.support.check_servers import check_listener
from tests.support.decisions import FRONTEND, worker
from tests.support.echo_service import echo_service
from tests.support.pki import TestAuthority
from tests.support.providers import FakeProviders, provider
from tests.support.snapshots import point, policy

pytestmark = pytest.mark.e2e

SIDECAR = point("orders", kind="sidecar", caller={"listener": "local"})
EVERYBODY = policy("everybody", rules=[{}])
ASK = policy("ask", action="CUSTOM", provider={"name": "opa"}, rules=[{}])
MAX_BODY = 64
PARTIAL = "x-envoy-auth-partial-body"


class _WithBodies(Sidecar):
    """Sends the first bytes of each body along with a Check, as `includeRequestBodyInCheck` asks for."""

    def __init__(self, options: WaypointOptions, directory: Path) -> None:
        super().__init__(options, directory)
        (authz,) = _filters(self._config, "ext_authz")
        authz["typed_config"]["with_request_body"] = {"max_request_bytes": MAX_BODY, "allow_partial_message": True}


def _filters(value: Any, name: str) -> list[dict[str, Any]]:
    """Every filter of that name in a configuration."""
    if isinstance(value, dict):
        found = [value] if value.get("name") == name and "typed_config" in value else []
        return found + [one for item in value.values() for one in _filters(item, name)]
    return [one for item in value for one in _filters(item, name)] if isinstance(value, list) else []


async def _by_body(question: ProviderQuestion) -> ProviderAnswer:
    """Allows who says please, and tells the service who it is."""
    assert question.attributes.document is not None
    polite = "please" in question.attributes.document()["request"]["http"].get("body", "")
    user = question.principal.rpartition("/")[2]
    effects = Effects(headers=(("x-user", user),), query_to_set=(("user", user),), headers_to_remove=("x-secret",))
    return ProviderAnswer(True, effects) if polite else ProviderAnswer(False, hint="not polite")


@pytest.fixture(name="identity", scope="module")
def _identity(tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    return TestAuthority(tmp_path_factory.mktemp("pki")).issue(FRONTEND, file_name="frontend")


@asynccontextmanager
async def _client(
    identity: Credentials, directory: Path, *documents: dict[str, Any]
) -> AsyncIterator[tuple[httpx2.AsyncClient, _WithBodies]]:
    serving = await worker(SIDECAR, EVERYBODY, ASK, *documents, providers=FakeProviders({"opa": _by_body}))
    async with AsyncExitStack() as stack:
        listener = await stack.enter_async_context(check_listener(serving))
        backend = await stack.enter_async_context(echo_service())
        authz = ExtAuthz(address=listener.address, timeout_seconds=5.0)
        options = WaypointOptions(credentials=identity, enforcement=authz, backend=backend)
        proxy = await stack.enter_async_context(_WithBodies(options, directory))
        tunnel = Tunnel(credentials=identity, proxy=proxy.address)
        client = await stack.enter_async_context(HboneClient({"web": tunnel}, directory))
        url = client.url("web")
        http = httpx2.AsyncClient(timeout=20.0, trust_env=False, base_url=url)
        yield await stack.enter_async_context(http), proxy


async def test_a_provider_reads_the_body_and_says_who_the_user_is(identity: Credentials, tmp_path: Path) -> None:
    """What the client wrote about itself is replaced in header and query, in whatever spelling; the secret is gone."""
    async with _client(identity, tmp_path, provider("opa")) as (http, proxy):
        forged = {"x-user": "root", "x_user": "root", "x-secret": "1"}
        allowed = await http.post("/orders?user=root&%75ser=root&page=2", content="please", headers=forged)
        denied = await http.post("/orders", content="now", headers=forged)
        rows = await proxy.wait_for_requests(2)

    reached = allowed.json()
    headers = [(name, value) for name, value in reached["headers"] if name in ("x-user", "x_user", "x-secret")]
    query = sorted(httpx2.URL(reached["target"]).params.multi_items())
    assert [("x-user", "frontend")] == headers
    assert [("page", "2"), ("user", "frontend")] == query
    assert (403, "RBAC: access denied") == (denied.status_code, denied.text)
    assert ("PROVIDER_DENIED", "provider opa denied: not polite") == (
        rows[1]["decision"]["reason"],
        rows[1]["decision"]["hint"],
    )


async def test_case_089_a_cut_body_is_denied_whatever_the_client_says(identity: Credentials, tmp_path: Path) -> None:
    """Envoy takes the client's own header away and says that it sent only the beginning; unless told so, nobody is asked."""
    content = "please" + "x" * MAX_BODY
    async with _client(identity, tmp_path, provider("opa")) as (http, proxy):
        cut = await http.post("/orders", content=content, headers={PARTIAL: "false"})
        whole = await http.post("/orders", content="please", headers={PARTIAL: "true"})
        rows = await proxy.wait_for_requests(2)
    async with _client(identity, tmp_path / "told", provider("opa", allowPartialBody=True)) as (http, _):
        told = await http.post("/orders", content=content)

    assert (403, 200, 200) == (cut.status_code, whole.status_code, told.status_code)
    assert "allowPartialBody" in rows[0]["decision"]["hint"]
