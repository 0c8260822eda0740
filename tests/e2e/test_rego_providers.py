"""Policies written for opa-envoy-plugin, unchanged: the real Envoy as waypoint, our worker, a CUSTOM policy, Rego.

Once on the embedded engine and once on a real OPA where one is on the PATH.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.bootstrap.providers import Providers
from app.demo.waypoint import Credentials, ExtAuthz, HboneClient, Tunnel, Waypoint, WaypointOptions
from app.limits import CheckLimits, RegoLimits
from app.policy.provider import RegoEngine
from app.rego.rego_providers import EmbeddedProvider, OpaProvider
from tests.support.administration import mesh
from tests.support.check_servers import check_listener
from tests.support.decisions import FRONTEND, LOCAL_WAYPOINT, ORDERS_IP, WAYPOINT, Worker, at_waypoint, worker
from tests.support.echo_service import echo_service
from tests.support.opa import needs_opa, run_opa
from tests.support.pki import TestAuthority
from tests.support.rego import module, module_document, needs_regopy
from tests.support.rego_engines import push

pytestmark = pytest.mark.e2e

# As policies for opa-envoy-plugin are written: a boolean, and an object with what shall happen. Roles come from a token
# that the policy itself decodes, as those policies do; Gatehouse has another word for verified ones.
BOOLEAN = """package envoy.authz

import input.attributes.request.http as http_request

default allow := false

allow if {
    http_request.method == "GET"
    input.parsed_path[0] == "public"
}

allow if {
    http_request.headers["x-api-key"] == data.envoy.authz.keys[_]
    not startswith(http_request.path, "/public/closed")
}
"""
OBJECT = """package envoy.people

import input.attributes.request.http as http_request

default decision := {
    "allowed": false,
    "http_status": 401,
    "headers": {"www-authenticate": "Bearer", "x-why": "no token"},
    "body": "Unauthorized Request",
}

decision := {
    "allowed": true,
    "headers": {"x-user": payload.sub, "x-roles": concat(",", payload.roles)},
    "request_headers_to_remove": ["x-internal"],
    "response_headers_to_add": {"x-checked": "yes"},
} if may_read

decision := {"allowed": false, "http_status": 403, "body": sprintf("%s may not write", [payload.sub])} if may_not_write

may_read if {
    http_request.method == "GET"
    "reader" in payload.roles
}

may_not_write if {
    http_request.method != "GET"
    payload.sub
}

payload := claims if {
    [_, encoded] := split(http_request.headers.authorization, " ")
    [_, claims, _] := io.jwt.decode(encoded)
}
"""
TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4iLCJyb2xlcyI6WyJyZWFkZXIiLCJjbGVyayJdfQ.c2ln"  # ann: reader, clerk
KEYS = {"keys": ["k1", "k2"]}


@pytest.fixture(name="pki", scope="module")
def _pki(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Credentials]:
    authority = TestAuthority(tmp_path_factory.mktemp("pki"))
    return {name: authority.issue(uri, file_name=name) for name, uri in (("waypoint", WAYPOINT), ("web", FRONTEND))}


@asynccontextmanager
async def _serving(engine: str, folder: Path) -> AsyncIterator[Worker]:
    """A worker whose waypoint hands `/people` to one rule and everything else to the other."""
    limits = RegoLimits(evaluate_seconds=5.0)
    async with AsyncExitStack() as stack:
        opa: dict[str, Any] = {}
        if engine == "opa":
            url = await stack.enter_async_context(run_opa(folder))
            await push(url, [module("boolean", BOOLEAN, KEYS), module("object", OBJECT)])
            opa = {"opa": {"url": url}}
        embedded, server = EmbeddedProvider(limits, user="nobody"), OpaProvider(limits)
        stack.push_async_callback(embedded.close)
        stack.push_async_callback(server.close)
        providers = Providers({RegoEngine.EMBEDDED: embedded, RegoEngine.OPA: server})
        documents = [
            mesh(enableMultipleCustomProviders=True),
            LOCAL_WAYPOINT,
            module_document("boolean", BOOLEAN, KEYS),
            module_document("object", OBJECT),
            _provider("boolean", {"engine": engine, "path": "envoy/authz/allow", **opa}),
            _provider("object", {"engine": engine, "path": "envoy/people/decision", **opa}),
            at_waypoint("people", action="CUSTOM", provider={"name": "object"}, rules=[_paths("/people", "/people/*")]),
            at_waypoint(
                "others", action="CUSTOM", provider={"name": "boolean"}, rules=[_paths("/public*", "/private*")]
            ),
            at_waypoint("everybody", action="ALLOW", rules=[{}]),
        ]
        checks = CheckLimits(provider_budget_seconds=10.0)
        serving = await worker(*documents, limits=checks, providers=providers)
        assert serving.holder.state is not None
        providers.follow(serving.holder.state)
        yield serving


def _provider(name: str, rego: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "gatehouse.dev/v1",
        "kind": "Provider",
        "metadata": {"name": name},
        "spec": {"rego": rego, "timeout": "140ms"},
    }


def _paths(*paths: str) -> dict[str, Any]:
    return {"to": [{"operation": {"paths": list(paths)}}]}


@pytest.mark.parametrize("engine", [pytest.param("embedded", marks=needs_regopy), pytest.param("opa", marks=needs_opa)])
async def test_policies_of_opa_envoy_run_unchanged(engine: str, pki: dict[str, Credentials], tmp_path: Path) -> None:
    """Allowed with headers, refused with status, headers and body, and refused plainly."""
    async with AsyncExitStack() as stack:
        serving = await stack.enter_async_context(_serving(engine, tmp_path))
        checks = await stack.enter_async_context(check_listener(serving))
        backend = await stack.enter_async_context(echo_service())
        enforcement = ExtAuthz(address=checks.address, timeout_seconds=5.0)
        options = WaypointOptions(credentials=pki["waypoint"], enforcement=enforcement, backend=backend)
        proxy = await stack.enter_async_context(Waypoint(options, tmp_path))
        tunnel = Tunnel(credentials=pki["web"], proxy=proxy.address, destination=f"{ORDERS_IP}:8080")
        client = await stack.enter_async_context(HboneClient({"web": tunnel}, tmp_path))
        http = await stack.enter_async_context(
            httpx2.AsyncClient(base_url=client.url("web"), timeout=20.0, trust_env=False)
        )
        bearer = {"authorization": f"Bearer {TOKEN}"}

        read = await http.get("/people/7", headers={**bearer, "x-user": "root", "x-internal": "1"})
        assert (200, "yes") == (read.status_code, read.headers["x-checked"])
        reached = dict(read.json()["headers"])
        assert ("ann", "reader,clerk", None) == (reached["x-user"], reached["x-roles"], reached.get("x-internal"))

        written = await http.put("/people/7", headers=bearer)
        assert (403, "ann may not write") == (written.status_code, written.text)

        nobody = await http.get("/people/7")
        assert (401, "Unauthorized Request") == (nobody.status_code, nobody.text)
        assert ("Bearer", "no token") == (nobody.headers["www-authenticate"], nobody.headers["x-why"])

        assert [200, 403, 200, 403, 403] == [
            (await http.get(path, headers=headers)).status_code
            for path, headers in (
                ("/public/x", {}),
                ("/private", {}),
                ("/private", {"x-api-key": "k2"}),
                ("/private", {"x-api-key": "k3"}),
                ("/private", {"x-api-key": 'k1" or true'}),
            )
        ]
