"""What the real Envoy makes of the effects of an answer, in front of a service that says what reached it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx2
import pytest

from app.decision.attributes import CheckAnswer
from app.demo.waypoint import Credentials, ExtAuthz, HboneClient, Sidecar, Tunnel, WaypointOptions
from app.policy.decision import Decision, Reason
from app.policy.effects import Effects, removed_spellings
from app.rpc.check import CHECK_PATH
from app.rpc.check_answers import check_response
from tests.support.echo_service import echo_service
from tests.support.pki import TestAuthority

pytestmark = pytest.mark.e2e

ALLOWED = Decision(True, Reason.ALLOW_RULE, "shop/orders", "rule")
DENIED = Decision(False, Reason.PROVIDER_DENIED, "shop/orders", "rule")


@pytest.fixture(name="identity", scope="module")
def _identity(tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    return TestAuthority(tmp_path_factory.mktemp("pki")).issue("spiffe://cluster.local/ns/shop/sa/web", file_name="web")


class Proxied:
    """A client before an Envoy that gets one and the same answer from its authorization service."""

    def __init__(self, url: str, proxy: Sidecar) -> None:
        self._url = url
        self._proxy = proxy

    async def get(self, path: str = "/", headers: Sequence[tuple[str, str]] = ()) -> httpx2.Response:
        """Ask through the proxy."""
        async with httpx2.AsyncClient(timeout=20.0, trust_env=False) as http:
            return await http.get(self._url + path, headers=list(headers))

    async def logged(self) -> dict[str, Any]:
        """The dynamic metadata that the access log has of the first request."""
        decision: dict[str, Any] = (await self._proxy.wait_for_requests(1))[0]["decision"]
        return decision


Proxy = Callable[[CheckAnswer], Any]


@pytest.fixture(name="answering")
def _answering(identity: Credentials, tmp_path: Path) -> Proxy:
    @asynccontextmanager
    async def answering(answer: CheckAnswer) -> AsyncIterator[Proxied]:
        async def check(_request: bytes, _context: object) -> bytes:
            return check_response(answer, "d1").SerializeToString()

        server = grpc.aio.server()
        method, handler = CHECK_PATH.rpartition("/")[2], grpc.unary_unary_rpc_method_handler(check)
        service = CHECK_PATH.strip("/").partition("/")[0]
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(server.stop, None)
            backend = await stack.enter_async_context(echo_service(x_tier="backend", set_cookie="a=1"))
            options = WaypointOptions(
                credentials=identity, enforcement=ExtAuthz(address=address, timeout_seconds=5.0), backend=backend
            )
            proxy = await stack.enter_async_context(Sidecar(options, tmp_path))
            tunnels = {"web": Tunnel(credentials=identity, proxy=proxy.address)}
            client = await stack.enter_async_context(HboneClient(tunnels, tmp_path))
            yield Proxied(client.url("web"), proxy)

    return answering


def _values(response: httpx2.Response, name: str) -> list[str]:
    """The values of a header that reached the service, each line apart."""
    headers: list[list[str]] = response.json()["headers"]
    return [value for key, value in headers if key == name]


def _allowed(**effects: Any) -> CheckAnswer:
    return CheckAnswer(ALLOWED, 7, 5, "authenticated", Effects(**effects))


async def test_what_the_client_forged_is_overwritten_and_never_stands_beside(answering: Proxy) -> None:
    """Twice the client's header, once ours: an empty value and a list of two replace as well."""
    headers = (("x-user", "alice"), ("x-empty", ""), ("x-roles", "reader"), ("x-roles", "writer"))
    async with answering(_allowed(headers=headers)) as proxied:
        forged = [("x-user", "admin"), ("X-User", "root"), ("x-empty", "forged"), ("x-roles", "admin")]
        response = await proxied.get(headers=forged)

    assert ["alice"] == _values(response, "x-user")
    assert [""] == _values(response, "x-empty")
    assert ["reader, writer"] == _values(response, "x-roles")


async def test_removed_headers_are_gone_and_others_stay(answering: Proxy) -> None:
    """What the client sent under a name to remove does not reach the service, in whatever case."""
    async with answering(_allowed(headers_to_remove=("x-secret",))) as proxied:
        response = await proxied.get(headers=[("X-Secret", "1"), ("x-secret", "2"), ("x-kept", "3")])

    assert ([], ["3"]) == (_values(response, "x-secret"), _values(response, "x-kept"))


async def test_query_parameters_are_set_and_removed(answering: Proxy) -> None:
    """The service sees the query that the answer asks for, and no other spelling of its names."""
    asked = "/orders?tenant=bank&%74enant=bank&tenant=bank&debug=1&page=2"
    effects = Effects(query_to_set=(("tenant", "shop & co"),), query_to_remove=("debug",))
    spelled = replace(effects, query_to_remove=removed_spellings(effects, asked))
    async with answering(CheckAnswer(ALLOWED, effects=spelled)) as proxied:
        response = await proxied.get(asked)

    target = httpx2.URL(response.json()["target"])
    assert ("/orders", [("page", "2"), ("tenant", "shop & co")]) == (target.path, sorted(target.params.multi_items()))


async def test_headers_are_added_to_the_response(answering: Proxy) -> None:
    """A lone one replaces what the service answered; a cookie never costs the service its own."""
    headers = (("x-tier", "gold"), ("set-cookie", "b=2"), ("set-cookie", "c=3"))
    async with answering(_allowed(response_headers=headers)) as proxied:
        response = await proxied.get()

    assert ["gold"] == response.headers.get_list("x-tier")
    assert ["a=1", "b=2", "c=3"] == response.headers.get_list("set-cookie")


async def test_metadata_reaches_the_access_log_and_ours_wins(answering: Proxy) -> None:
    """What a provider says joins; under our own names it says nothing."""
    metadata = '{"decision_id":"forged","shadow":"forged","tenant":{"ids":[1,null,"x"]}}'
    async with answering(_allowed(metadata=metadata)) as proxied:
        await proxied.get()
        logged = await proxied.logged()

    expected: Mapping[str, Any] = {"decision_id": "d1", "tenant": {"ids": [1, None, "x"]}, "policy": "shop/orders"}
    assert expected.items() <= logged.items()
    assert "shadow" not in logged


async def test_a_denial_answers_as_its_provider_wants(answering: Proxy) -> None:
    """Status, body and headers; several values of one header stay apart."""
    effects = Effects(
        status=302,
        body="log in first",
        headers=(("location", "https://login.example/"), ("set-cookie", "s=1"), ("set-cookie", "t=2")),
        metadata='{"tenant":"shop"}',
    )
    async with answering(CheckAnswer(DENIED, effects=effects)) as proxied:
        response = await proxied.get()
        logged = await proxied.logged()

    assert (302, "log in first", "https://login.example/") == (
        response.status_code,
        response.text,
        response.headers["location"],
    )
    assert ["s=1", "t=2"] == response.headers.get_list("set-cookie")
    assert "d1" == response.headers["x-gatehouse-decision"]
    assert {"tenant": "shop", "reason": "PROVIDER_DENIED"}.items() <= logged.items()
