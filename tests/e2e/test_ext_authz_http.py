"""ext_authz over HTTP with the real Envoy and a real nginx, set up as the guide says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.decision.attributes import CheckAnswer, CheckAttributes, Peer
from app.decision.counters import CheckCounters
from app.decision.ports import ProviderAnswer, ProviderQuestion
from app.demo.envoy import Envoy
from app.demo.envoy_parts import Credentials, upstream_tls
from app.demo.proxy_config import CONNECT_TERMINATE, INBOUND, sidecar_config, waypoint_config
from app.demo.waypoint import HboneClient, Tunnel, WaypointOptions
from app.policy.decision import Decision, Reason
from app.policy.effects import Effects
from tests.support.check_servers import certificates_from, http_listener
from tests.support.decisions import FRONTEND, ORDERS_IP, READERS, REPORTS, SERVICES, WAYPOINT, Worker, worker
from tests.support.http_gateways import NAMED_HEADERS, find_nginx, nginx, with_http_authorization
from tests.support.pki import TestAuthority
from tests.support.plain_gateway import LISTENER, gateway_config
from tests.support.providers import FakeProviders, provider
from tests.support.raw_http import RawClient, RawResponse
from tests.support.snapshots import point, policy

pytestmark = pytest.mark.e2e

XFCC = "x-forwarded-client-cert"
CLIENT = "x-gatehouse-client"
SIDECAR = point("orders", kind="sidecar", labels={"app": "orders"}, caller={"listener": "http"})
SIDECAR_READERS = policy(
    "readers",
    selector={"matchLabels": {"app": "orders"}},
    rules=[
        {
            "from": [{"source": {"principals": ["cluster.local/ns/shop/sa/frontend"], "ipBlocks": ["127.0.0.0/8"]}}],
            "to": [{"operation": {"notMethods": ["POST"], "paths": ["/orders", "/orders/*"]}}],
        }
    ],
)
METHODS = ["GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "PURGE", "PROPFIND"]


@dataclass(frozen=True)
class Identities:
    """Certificates of one authority."""

    waypoint: Credentials
    worker: Credentials
    frontend: Credentials
    reports: Credentials
    nameless: Credentials


@pytest.fixture(name="identities", scope="module")
def _identities(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    authority = TestAuthority(tmp_path_factory.mktemp("pki"))
    return Identities(
        waypoint=authority.issue(WAYPOINT, file_name="waypoint"),
        worker=authority.issue("spiffe://cluster.local/ns/gatehouse/sa/worker", file_name="worker"),
        frontend=authority.issue(FRONTEND, file_name="frontend"),
        reports=authority.issue(REPORTS, file_name="reports"),
        nameless=authority.issue(None, file_name="nameless", dns="frontend.shop"),
    )


@asynccontextmanager
async def _behind(
    identities: Identities,
    folder: Path,
    check_port: int,
    *,
    waypoint: bool = False,
    let_through: tuple[str, ...] = (),
    **cluster: Any,
) -> AsyncIterator[HboneClient]:
    """Clients before an Envoy that asks over HTTP."""
    options = WaypointOptions(credentials=identities.waypoint)
    config = (waypoint_config if waypoint else sidecar_config)(options, folder / "access.jsonl")
    operator = "FILTER_STATE(io.istio.peer_principal:PLAIN)" if waypoint else "DOWNSTREAM_PEER_URI_SAN"
    config = with_http_authorization(config, f"127.0.0.1:{check_port}", **cluster)
    authz = config["static_resources"]["listeners"][-1]["filter_chains"][0]["filters"][0]["typed_config"][
        "http_filters"
    ]
    found = next(one for one in authz if one["name"] == "envoy.filters.http.ext_authz")
    found["typed_config"]["http_service"]["authorization_request"]["headers_to_add"][0]["value"] = f"URI=%{operator}%"
    found["typed_config"]["allowed_headers"]["patterns"] += [{"exact": name} for name in let_through]
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(Envoy("proxy", config, folder))
        where = f"127.0.0.1:{proxy.ports[CONNECT_TERMINATE if waypoint else INBOUND]}"
        tunnels = {
            name: Tunnel(
                credentials=getattr(identities, name), proxy=where, destination=f"{ORDERS_IP}:8080" if waypoint else ""
            )
            for name in ("frontend", "reports", "nameless")
        }
        yield await stack.enter_async_context(HboneClient(tunnels, folder))


async def _raw(port: int, target: str, *, method: str = "GET", headers: str = "") -> RawResponse:
    """A request with exactly this target."""
    client = await RawClient.connect(port)
    await client.send(f"{method} {target} HTTP/1.1\r\nhost: orders\r\n{headers}connection: close\r\n\r\n".encode())
    try:
        return await client.response()
    finally:
        client.writer.close()


def _http() -> httpx2.AsyncClient:
    return httpx2.AsyncClient(timeout=20.0, trust_env=False)


async def test_every_method_and_path_reaches_the_decision_as_it_was_sent(
    tmp_path: Path, identities: Identities
) -> None:
    """No redirect, no 404, no 405: what comes out is what the rules say."""
    serving = await worker(SIDECAR, SIDECAR_READERS)
    async with (
        http_listener(serving, **NAMED_HEADERS) as listener,
        _behind(identities, tmp_path, listener.port) as client,
        _http() as http,
    ):
        for method in METHODS:
            assert 200 == (await http.request(method, client.url("frontend") + "/orders")).status_code, method
            assert 403 == (await http.request(method, client.url("reports") + "/orders")).status_code, method
        assert 403 == (await http.post(client.url("frontend") + "/orders")).status_code
        port = client.port("frontend")
        # Istio's normalisation before the filter leaves %2f, // and ; as they are.
        for target in (
            "/orders/",
            "/orders/a?b=/c",
            "/orders/%2fa",
            "/orders/%c3%bc",
            "/orders?",
            "/orders/a;b",
            "/orders//a",
        ):
            assert (200, "") == await _outcome(port, target), target
        for target in ("/", "//orders", "/%2forders", "/orders/..%2finternal", "/orders/..;/internal", "/envoy/orders"):
            assert (403, "") == await _outcome(port, target), target
    assert serving.service.counters.errors == 0


async def _outcome(port: int, target: str) -> tuple[int, str]:
    response = await _raw(port, target)
    return response.status, response.headers.get("location", "")


async def test_operators_say_who_and_where_and_a_client_cannot(tmp_path: Path, identities: Identities) -> None:
    """The proxy's headers replace the client's, also where it has nothing to say."""
    serving = await worker(SIDECAR, SIDECAR_READERS)
    forged = {
        CLIENT: f"URI={FRONTEND}",
        "x-gatehouse-source": "127.0.0.1",
        XFCC: f"By={WAYPOINT};URI={FRONTEND}",
        "x-original-uri": "/orders",
        "x-envoy-original-path": "/orders",
    }
    async with (
        http_listener(serving, **NAMED_HEADERS) as listener,
        _behind(identities, tmp_path, listener.port) as client,
        _http() as http,
    ):
        allowed = await http.get(client.url("frontend") + "/orders", headers={CLIENT: f"URI={REPORTS}"})
        assert 200 == allowed.status_code
        assert 24 == len(allowed.headers["x-gatehouse-decision"])
        for who in ("reports", "nameless"):
            denied = await http.get(client.url(who) + "/orders", headers=forged)
            assert (403, "RBAC: access denied") == (denied.status_code, denied.text)
            assert "x-gatehouse-reason" not in denied.headers
        assert 403 == (await http.get(client.url("frontend") + "/internal", headers=forged)).status_code


async def test_a_client_without_a_certificate_cannot_name_itself_where_its_header_is_let_through(
    tmp_path: Path, identities: Identities
) -> None:
    """`allowed_headers` with the identity's header is a mistake that the word before the identity makes harmless."""
    serving = await worker(SIDECAR, SIDECAR_READERS)
    async with (
        http_listener(serving, **NAMED_HEADERS) as listener,
        _behind(identities, tmp_path, listener.port, let_through=(CLIENT,)) as client,
        _http() as http,
    ):
        forged = {CLIENT: f"URI={FRONTEND}"}
        assert 200 == (await http.get(client.url("frontend") + "/orders", headers=forged)).status_code
        for who in ("reports", "nameless"):
            assert 403 == (await http.get(client.url(who) + "/orders", headers=forged)).status_code, who
    assert 2 == serving.service.counters.denied[Reason.NO_RULE_MATCHED]


async def test_case_091_without_a_name_in_the_settings_the_same_header_is_nobodys(
    tmp_path: Path, identities: Identities
) -> None:
    """The proxy says who it is, and is not asked."""
    serving = await worker(SIDECAR, SIDECAR_READERS)
    async with (
        http_listener(serving) as listener,
        _behind(identities, tmp_path, listener.port) as client,
        _http() as http,
    ):
        assert 403 == (await http.get(client.url("frontend") + "/orders")).status_code
    assert {Reason.NO_RULE_MATCHED: 1} == {
        reason: count for reason, count in serving.service.counters.denied.items() if count
    }


async def test_a_waypoint_says_who_and_where_from_filter_state(tmp_path: Path, identities: Identities) -> None:
    """Without XFCC and without the annotation: the identity of the tunnel and the address of the service."""
    waypoint = point("waypoint", gateway="waypoint", requireService=True, caller={"listener": "http"})
    serving = await worker(waypoint, READERS)
    async with (
        http_listener(serving, **NAMED_HEADERS) as listener,
        _behind(identities, tmp_path, listener.port, waypoint=True) as client,
        _http() as http,
    ):
        forged = {CLIENT: f"URI={FRONTEND}"}
        assert 200 == (await http.get(client.url("frontend") + "/orders", headers=forged)).status_code
        assert 403 == (await http.get(client.url("frontend") + "/internal", headers=forged)).status_code
        assert 403 == (await http.get(client.url("reports") + "/orders", headers=forged)).status_code
        assert 403 == (await http.get(client.url("nameless") + "/orders", headers=forged)).status_code


async def test_over_mutual_tls_the_caller_is_the_registered_proxy(tmp_path: Path, identities: Identities) -> None:
    """As on 9193; a workload with a good certificate of the mesh gets nothing."""
    at_proxy = point("proxy", kind="sidecar", labels={"app": "orders"}, caller={"spiffeId": WAYPOINT})
    serving = await worker(at_proxy, SIDECAR_READERS)
    async with http_listener(
        serving, certificates=certificates_from(identities.worker), mutual_tls=True, **NAMED_HEADERS
    ) as listener:
        for caller, status in ((identities.waypoint, 200), (identities.reports, 403)):
            folder = tmp_path / str(status)
            tls = upstream_tls(caller, alpn="http/1.1")
            async with _behind(identities, folder, listener.port, transport_socket=tls) as client, _http() as http:
                assert status == (await http.get(client.url("frontend") + "/orders")).status_code
    denied = serving.service.counters.denied
    assert 1 == denied[Reason.CALLER_UNKNOWN]


async def test_case_088_large_heads_are_decided(tmp_path: Path, identities: Identities) -> None:
    """Sixty kilobytes of a header that a rule asks about: the last character decides."""
    rules = [{"when": [{"key": "request.headers[x-role]", "values": ["*z"]}]}]
    serving = await worker(SIDECAR, policy("roles", selector={"matchLabels": {"app": "orders"}}, rules=rules))
    async with (
        http_listener(serving, **NAMED_HEADERS) as listener,
        _behind(identities, tmp_path, listener.port) as client,
    ):
        port = client.port("frontend")
        one = f"x-role: {'a' * 57_000}z\r\n"
        assert 200 == (await _raw(port, "/", headers=one)).status
        assert 403 == (await _raw(port, "/", headers=one.replace("z", "a"))).status


class _Scripted:
    """A service whose answers are given."""

    def __init__(self) -> None:
        self.counters = CheckCounters()

    async def decide(self, attributes: CheckAttributes, _peer: Peer, _seconds: float | None) -> CheckAnswer:
        allow = CheckAnswer(Decision(True, Reason.ALLOW_RULE))
        match attributes.path:
            case "/set":
                effects = Effects(headers=(("x-user", "ann"),), headers_to_remove=("cookie",))
                return CheckAnswer(allow.decision, effects=effects)
            case "/user":
                return CheckAnswer(allow.decision, effects=Effects(headers=(("x-user", "ann"),)))
            case "/nobody":
                return CheckAnswer(allow.decision, effects=Effects(headers_to_remove=("x-user",)))
            case "/other":
                return CheckAnswer(allow.decision, effects=Effects(headers=(("x-other", "ann"),)))
            case "/query":
                return CheckAnswer(allow.decision, effects=Effects(query_to_set=(("a", "b"),)))
            case "/login":
                headers = (("location", "/in"), ("set-cookie", "a=1"), ("set-cookie", "b=2"))
                return CheckAnswer(
                    Decision(False, Reason.DENY_RULE), effects=Effects(status=302, body="go", headers=headers)
                )
            case "/token":
                return CheckAnswer(
                    Decision(False, Reason.DENY_RULE),
                    effects=Effects(status=401, headers=(("www-authenticate", "Bearer"),)),
                )
        return CheckAnswer(Decision(False, Reason.NO_SNAPSHOT), effects=Effects(status=503))


class _ScriptedWorker:
    def __init__(self) -> None:
        self.service = _Scripted()


async def test_what_an_answer_does_is_done_by_envoy(tmp_path: Path, identities: Identities) -> None:
    """Headers replace the client's, others are gone; what HTTP has no words for is a denial, and no denial a 5xx."""
    scripted: Any = _ScriptedWorker()
    async with (
        http_listener(scripted, **NAMED_HEADERS) as listener,
        _behind(identities, tmp_path, listener.port) as client,
        _http() as http,
    ):
        url = client.url("frontend")
        passed = await http.get(url + "/set", headers={"x-user": "root", "cookie": "a=b"})
        assert (200, "ann", None) == (
            passed.status_code,
            passed.headers["x-seen-user"],
            passed.headers.get("x-seen-cookie"),
        )
        nobody = await http.get(url + "/nobody", headers={"x-user": "root"})
        assert (200, None) == (nobody.status_code, nobody.headers.get("x-seen-user"))
        # Neither has words for it: the service would see what the client wrote.
        for path in ("/query", "/other"):
            assert 403 == (await http.get(url + path, headers={"x-other": "root"})).status_code, path
        login = await http.get(url + "/login")
        assert (302, "/in", "go") == (login.status_code, login.headers["location"], login.text)
        assert ["a=1", "b=2"] == login.headers.get_list("set-cookie")
        assert 403 == (await http.get(url + "/else")).status_code


@pytest.mark.skipif(find_nginx() is None, reason="nginx is not installed")
async def test_nginx_asks_before_every_request(tmp_path: Path) -> None:
    """Paths as the client sent them, every method, and what a client forges replaced."""
    edge = point("edge", gateway="edge", serviceFromHost=True, requireIdentity=False, caller={"listener": "nginx"})
    readers = policy(
        "readers",
        targetRefs=[{"kind": "Service", "group": "", "name": "orders"}],
        rules=[{"to": [{"operation": {"notMethods": ["POST"], "paths": ["/orders", "/orders/*"]}}]}],
    )
    serving = Worker()
    await serving.put(edge, readers, services=SERVICES)
    host = "orders.shop.svc.cluster.local"
    forged = (
        f"x-original-uri: /orders\r\nx-original-method: GET\r\nx-original-host: {host}\r\n{CLIENT}: URI={FRONTEND}\r\n"
        f"{XFCC}: By={WAYPOINT};URI={FRONTEND}\r\nx-gatehouse-source: 10.0.0.1\r\n"
    )
    async with (
        http_listener(serving, **NAMED_HEADERS) as listener,
        nginx(f"127.0.0.1:{listener.port}", tmp_path) as port,
    ):

        async def ask(target: str, method: str = "GET", name: str = host, headers: str = "") -> int:
            client = await RawClient.connect(port)
            await client.send(
                f"{method} {target} HTTP/1.1\r\nhost: {name}\r\n{headers}connection: close\r\n\r\n".encode()
            )
            head = (await client.reader.readuntil(b"\r\n")).decode()
            client.writer.close()
            return int(head.split(" ")[1])

        for method in METHODS:
            assert 200 == await ask("/orders", method), method
        assert 403 == await ask("/orders", "POST")
        for target in ("/orders/%2fa", "/orders//a", "/orders/%c3%bc?x=1", "/orders?"):
            assert 200 == await ask(target), target
        for target in ("/internal", "/orders/..%2finternal", "/orders/..;/internal", "/x/../orders/../internal"):
            assert 403 == await ask(target), target
            assert 403 == await ask(target, headers=forged), target
        assert 200 == await ask("/orders", name=host.upper() + ":8080")
        assert 403 == await ask("/orders", name="elsewhere.example")
        assert 403 == await ask("/orders", name="elsewhere.example", headers=forged)
        assert 200 == await ask("/orders", headers=f"x-large: {'a' * 60_000}\r\n")
    assert serving.service.counters.errors == 0


@pytest.mark.skipif(find_nginx() is None, reason="nginx is not installed")
async def test_what_an_answer_does_is_done_by_nginx(tmp_path: Path) -> None:
    """Headers by `auth_request_set`, 401 with its challenge; a redirect, a removal or a 5xx become 403."""
    scripted: Any = _ScriptedWorker()
    async with (
        http_listener(scripted, **NAMED_HEADERS) as listener,
        nginx(f"127.0.0.1:{listener.port}", tmp_path) as port,
        _http() as http,
    ):
        url = f"http://127.0.0.1:{port}"
        token = await http.get(url + "/token")
        assert (401, "Bearer") == (token.status_code, token.headers["www-authenticate"])
        for path, user in (("/user", "ann"), ("/nobody", None)):
            passed = await http.get(url + path, headers={"x-user": "root"})
            assert (200, user) == (passed.status_code, passed.headers.get("x-seen-user"))
        for path in ("/login", "/else", "/query", "/set", "/other"):
            assert 403 == (await http.get(url + path)).status_code, path


async def test_case_089_a_provider_sees_the_body_that_envoy_sends_along_or_that_it_was_cut(tmp_path: Path) -> None:
    """A rule about bodies is not got round by asking over HTTP."""

    async def polite(question: ProviderQuestion) -> ProviderAnswer:
        assert question.attributes.document is not None
        return ProviderAnswer("rude" not in question.attributes.document()["request"]["http"].get("body", ""))

    documents = [
        point("edge", kind="gateway", requireIdentity=False, caller={"listener": "http"}),
        provider("manners"),
        policy("ask", action="CUSTOM", provider={"name": "manners"}, rules=[{}]),
        policy("everybody", rules=[{}]),
    ]
    serving = await worker(*documents, providers=FakeProviders({"manners": polite}))
    async with http_listener(serving) as listener, _http() as http:
        config = gateway_config(f"127.0.0.1:{listener.port}", over_http=True)
        manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
        bodies = {"max_request_bytes": 16, "allow_partial_message": True}
        manager["http_filters"][0]["typed_config"]["with_request_body"] = bodies
        async with Envoy("gateway", config, tmp_path) as proxy:
            url = f"http://127.0.0.1:{proxy.ports[LISTENER]}/orders"
            forged = {"x-envoy-auth-partial-body": "false"}
            statuses = [
                (await http.post(url, content=content, headers=forged)).status_code
                for content in ("please", "rude", "please" + " " * 16 + "rude")
            ]
    assert [200, 403, 403] == statuses


async def test_a_slow_provider_is_a_denial_before_envoy_gives_up(tmp_path: Path) -> None:
    """Which would be an error, and let the request pass where the proxy fails open."""
    documents = [
        point("edge", kind="gateway", requireIdentity=False, caller={"listener": "http"}),
        provider("silent", timeout="140ms"),
        policy("ask", action="CUSTOM", provider={"name": "silent"}, rules=[{}]),
        policy("everybody", rules=[{}]),
    ]
    serving = await worker(*documents, providers=FakeProviders())
    async with http_listener(serving) as listener, _http() as http:
        config = gateway_config(f"127.0.0.1:{listener.port}", over_http=True, timeout_seconds=0.1)
        async with Envoy("gateway", config, tmp_path) as proxy:
            answer = await http.get(f"http://127.0.0.1:{proxy.ports[LISTENER]}/orders")
    assert (403, "RBAC: access denied") == (answer.status_code, answer.text)
