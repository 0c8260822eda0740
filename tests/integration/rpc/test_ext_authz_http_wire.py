"""ext_authz over HTTP from bytes to bytes: what only a raw connection can send, and how connections begin and end."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.decision.ports import ProviderAnswer, ProviderQuestion
from app.demo.envoy_parts import Credentials
from app.errors import AppError
from app.limits import HttpLimits
from app.policy.decision import Reason
from app.policy.effects import Effects
from app.rpc.check import CheckCertificates
from app.serving.binding import TcpEndpoint
from app.serving.http import HttpServer
from tests.support.check_servers import certificates_from, http_listener
from tests.support.decisions import FRONTEND, SERVICES, WAYPOINT, Worker, worker, xfcc
from tests.support.pki import TestAuthority
from tests.support.providers import FakeProviders, provider
from tests.support.raw_http import RawClient, RawResponse
from tests.support.snapshots import point, policy

GATEWAY = point("edge", kind="gateway", caller={"listener": "http"})
OPEN = policy("open", rules=[{}])
LIMITS = HttpLimits(max_header_bytes=196_608, shutdown_seconds=0.3, keep_alive_seconds=30.0)


async def _ask(port: int, data: str | bytes) -> RawResponse:
    client = await RawClient.connect(port)
    try:
        await client.send(data.encode() if isinstance(data, str) else data)
        return await client.response()
    finally:
        client.writer.close()


def _get(target: str, headers: str = "", *, method: str = "GET") -> str:
    return f"{method} {target} HTTP/1.1\r\nhost: orders\r\n{headers}\r\n"


@pytest.mark.parametrize(
    "data",
    [
        _get("/orders"),
        _get("http://orders/envoy/orders"),
        _get("*", method="OPTIONS"),
        _get("orders:80", method="CONNECT"),
        _get("/envoy*", method="OPTIONS"),
        _get("/envoy"),
        _get("/Envoy/orders"),
        _get("/%65nvoy/orders"),
        _get("//envoy/orders"),
        "GET /envoy/orders HTTP/1.0\r\n\r\n",
        "GET /envoy/orders HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        "GET /envoy/or ders HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET /envoy/\xc3\xbc HTTP/1.1\r\nhost: a\r\n\r\n",
        _get("/envoy/orders", "transfer-encoding: chunked\r\ncontent-length: 3\r\n"),
        _get("/nginx"),
        _get("/envoy/" + "a" * 200_000),
    ],
)
async def test_what_is_not_plainly_a_question_is_denied_and_no_error(data: str | bytes) -> None:
    """Where everybody may do everything: a denial below 500, and never a redirect."""
    serving = await worker(GATEWAY, OPEN)
    async with http_listener(serving, limits=LIMITS) as listener:
        assert 200 == (await _ask(listener.port, _get("/envoy/orders"))).status
        if b"HTTP/1.0" in (data if isinstance(data, bytes) else data.encode()):
            assert 200 == (await _ask(listener.port, data)).status  # old, and well-formed
            return
        response = await _ask(listener.port, data)
        assert 400 <= response.status < 500
        assert "location" not in response.headers


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PROPFIND", "M-SEARCH", "ABC"])
async def test_every_method_is_answered_on_one_connection(method: str) -> None:
    """With and without a body, which is read and not looked at; HEAD has no body to be answered with."""
    closed = policy("closed", action="DENY", rules=[{"to": [{"operation": {"paths": ["/closed"]}}]}])
    serving = await worker(GATEWAY, OPEN, closed)
    async with http_listener(serving, limits=LIMITS) as listener:
        client = await RawClient.connect(listener.port)
        for target, status in (("/envoy/", 200), ("/envoy/closed", 403), ("/envoy/", 200)):
            for headers, body in (
                ("", ""),
                ("content-length: 5\r\n", "hello"),
                ("transfer-encoding: chunked\r\n", "0\r\n\r\n"),
            ):
                await client.send((_get(target, headers, method=method) + body).encode())
                head = (await client.reader.readuntil(b"\r\n\r\n")).decode()
                assert str(status) == head.split(" ")[1]
                if method != "HEAD" and status == 403:
                    assert b"RBAC: access denied" == await client.reader.readexactly(19)
        client.writer.close()
    assert 9 == serving.service.counters.total


async def test_case_085_a_repeated_header_is_denied_by_any_of_its_values() -> None:
    """Sent twice, or joined by a comma on the way."""
    admins = policy(
        "admins",
        action="DENY",
        rules=[{"when": [{"key": "request.headers[x-role]", "values": ["admin"]}]}],
    )
    serving = await worker(GATEWAY, OPEN, admins)
    async with http_listener(serving, limits=LIMITS) as listener:
        for headers in ("x-role: user\r\nx-role: admin\r\n", "x-role: user,admin\r\n", "X-ROLE: admin\r\n"):
            assert 403 == (await _ask(listener.port, _get("/envoy/", headers))).status, headers
        assert 200 == (await _ask(listener.port, _get("/envoy/", "x-role: user\r\n"))).status


async def test_case_088_a_thousand_headers_are_decided() -> None:
    """And sixty kilobytes of them; more than the listener reads is refused, as a denial."""
    serving = await worker(GATEWAY, OPEN)
    async with http_listener(serving, limits=LIMITS) as listener:
        many = "".join(f"x-header-{number}: {'v' * 45}\r\n" for number in range(998))
        assert len(many) > 60_000
        assert 200 == (await _ask(listener.port, _get("/envoy/", many))).status
        assert 403 == (await _ask(listener.port, _get("/envoy/", many + "x-a: 1\r\nx-b: 2\r\n"))).status
        assert 431 == (await _ask(listener.port, _get("/envoy/", f"x-large: {'v' * 200_000}\r\n"))).status
    assert 1 == serving.service.counters.denied[Reason.MALFORMED]


async def test_case_091_a_registered_waypoint_beside_the_worker_is_believed_and_nginx_is_not() -> None:
    """`x-forwarded-client-cert` from the Envoy dialect only: nginx hands on what its client wrote."""
    waypoint = point("w", gateway="w", requireService=False, caller={"listener": "http"})
    edge = point("e", gateway="w", caller={"listener": "nginx"})
    readers = policy(
        "readers",
        targetRefs=[{"kind": "Gateway", "group": "gateway.networking.k8s.io", "name": "w"}],
        rules=[{"from": [{"source": {"principals": ["cluster.local/ns/shop/sa/frontend"]}}]}],
    )
    serving = Worker()
    await serving.put(waypoint, edge, readers, services=SERVICES)
    value = xfcc(FRONTEND)["x-forwarded-client-cert"][0]
    async with http_listener(serving, limits=LIMITS) as listener:
        header = f"x-forwarded-client-cert: {value}\r\n"
        assert 200 == (await _ask(listener.port, _get("/envoy/", header))).status
        assert 403 == (await _ask(listener.port, _get("/envoy/"))).status
        original = "x-original-method: GET\r\nx-original-uri: /\r\nx-original-host: orders\r\n"
        denied = await _ask(listener.port, _get("/nginx", original + header))
        assert (403, "IDENTITY_UNAVAILABLE") == (denied.status, denied.headers["x-gatehouse-reason"])


async def test_case_096_without_a_snapshot_the_answer_is_a_denial_that_never_fails_open() -> None:
    """Over gRPC it is 503 beside the verdict; here a 503 would be an error."""
    async with http_listener(Worker(), limits=LIMITS) as listener:
        response = await _ask(listener.port, _get("/envoy/"))
        assert (403, b"no authorization decision is available") == (response.status, response.body)


async def test_connections_leave_when_the_listener_does() -> None:
    """An answer ends its connection, a quiet one is closed; who is in the middle of a request gets the answer."""
    serving = await worker(GATEWAY, OPEN)
    async with http_listener(serving, limits=LIMITS) as listener:
        quiet, busy = await RawClient.connect(listener.port), await RawClient.connect(listener.port)
        for client in (quiet, busy):
            await client.send(_get("/envoy/").encode())
            assert "connection" not in (await client.response()).headers
        await busy.send(_get("/envoy/", "content-length: 5\r\n").encode())
        leaving = asyncio.create_task(listener.let_leave(within_seconds=10.0, quiet_seconds=0.1))
        assert b"" == await quiet.ended()
        assert not leaving.done()
        await busy.send(b"hello")
        last = await busy.response()
        assert (200, "close") == (last.status, last.headers["connection"])
        assert b"" == await busy.ended()
        assert 0 == await leaving
        for client in (quiet, busy):
            client.writer.close()


async def test_an_old_connection_ends_with_an_answer() -> None:
    """So connections move to new workers, and a certificate's root does not live on in one."""
    serving = await worker(GATEWAY, OPEN)
    limits = HttpLimits(max_connection_age_seconds=0.05, shutdown_seconds=0.3)
    async with http_listener(serving, limits=limits) as listener:
        client = await RawClient.connect(listener.port)
        await asyncio.sleep(0.06)
        await client.send(_get("/envoy/").encode())
        assert "close" == (await client.response()).headers["connection"]
        client.writer.close()


async def test_two_servers_share_a_port_only_when_both_were_told_to() -> None:
    """Workers do; a second Gatehouse is refused."""

    async def app(*_: object) -> None:
        """Answers nobody."""

    limits = HttpLimits(shutdown_seconds=0.1)
    async with HttpServer(app, TcpEndpoint(shared=True), limits=limits) as first:
        async with HttpServer(app, TcpEndpoint(port=first.port, shared=True), limits=limits) as second:
            assert first.port == second.port
        alone = HttpServer(app, TcpEndpoint(port=first.port), limits=limits)
        with pytest.raises(AppError, match="is taken"):
            await alone.start()


# Mutual TLS


@pytest.fixture(name="authority", scope="module")
def _authority(tmp_path_factory: pytest.TempPathFactory) -> TestAuthority:
    return TestAuthority(tmp_path_factory.mktemp("pki"))


def _client(credentials: Credentials, *, roots: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(roots))
    context.check_hostname = False
    context.load_cert_chain(credentials.certificate, credentials.private_key)
    return context


@contextlib.asynccontextmanager
async def _over_tls(authority: TestAuthority, certificates: CheckCertificates) -> AsyncIterator[tuple[Worker, int]]:
    at = point("edge", kind="gateway", caller={"spiffeId": WAYPOINT})
    serving = await worker(at, OPEN)
    async with http_listener(serving, certificates=certificates, limits=LIMITS, mutual_tls=True) as listener:
        yield serving, listener.port


async def _ask_over_tls(port: int, tls: ssl.SSLContext) -> int:
    client = await RawClient.connect(port, tls=tls)
    try:
        await client.send(_get("/envoy/").encode())
        return (await client.response()).status
    finally:
        client.writer.close()
        with contextlib.suppress(OSError):
            await client.writer.wait_closed()


async def test_case_093_over_mutual_tls_only_registered_enforcement_points_get_decisions(
    authority: TestAuthority,
) -> None:
    """A workload of the mesh is denied, and so is a certificate with two names or none; a stranger cannot connect."""
    serving_certificate = authority.issue("spiffe://cluster.local/ns/gatehouse/sa/worker", file_name="tls-worker")
    roots = serving_certificate.trust_bundle
    async with _over_tls(authority, certificates_from(serving_certificate)) as (serving, port):
        for name, spiffe_id, status in (("tls-w", WAYPOINT, 200), ("tls-f", FRONTEND, 403), ("tls-n", None, 403)):
            caller = authority.issue(spiffe_id, file_name=name, dns=None if spiffe_id else "waypoint.shop")
            assert status == await _ask_over_tls(port, _client(caller, roots=roots)), name
        assert 2 == serving.service.counters.denied[Reason.CALLER_UNKNOWN]
        stranger = TestAuthority(roots.parent, name="stranger").issue(WAYPOINT, file_name="tls-stranger")
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await _ask_over_tls(port, _client(stranger, roots=roots))
        nobody = ssl.create_default_context(cafile=str(roots))
        nobody.check_hostname = False
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await _ask_over_tls(port, nobody)


async def test_a_removed_root_holds_for_the_next_connection(authority: TestAuthority, tmp_path: Path) -> None:
    """The bundle of the newest snapshot decides, and no session of before is resumed."""
    other = TestAuthority(tmp_path, name="other root")
    worker_certificate = authority.issue("spiffe://cluster.local/ns/gatehouse/sa/worker", file_name="tls-worker-2")
    caller = authority.issue(WAYPOINT, file_name="tls-waypoint-2")
    roots = worker_certificate.trust_bundle.read_text()
    bundle = [roots]
    pair = (worker_certificate.certificate.read_bytes(), worker_certificate.private_key.read_bytes())
    async with _over_tls(authority, CheckCertificates(lambda: pair, lambda: bundle[0])) as (_, port):
        tls = _client(caller, roots=worker_certificate.trust_bundle)
        assert 200 == await _ask_over_tls(port, tls)
        bundle[0] = other.issue(None, file_name="any", dns="a").trust_bundle.read_text()
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await _ask_over_tls(port, tls)


async def test_a_custom_policy_asks_its_provider_over_http_as_well() -> None:
    """What the provider sees is the request that the proxy asks about; its answer goes out in the words of HTTP."""

    async def by_path(question: ProviderQuestion) -> ProviderAnswer:
        assert question.attributes.document is not None
        path = question.attributes.document()["request"]["http"]["path"]
        effects = Effects(headers=(("x-user", "alice"),)) if path == "/in" else Effects(status=401, body="no")
        return ProviderAnswer(path == "/in", effects)

    custom = policy("ask", action="CUSTOM", provider={"name": "opa"}, rules=[{}])
    serving = await worker(GATEWAY, OPEN, provider("opa"), custom, providers=FakeProviders({"opa": by_path}))
    async with http_listener(serving, limits=LIMITS, upstream_headers=("x-user",)) as listener:
        allowed = await _ask(listener.port, _get("/envoy/in", "x-user: forged\r\n"))
        denied = await _ask(listener.port, _get("/envoy/out"))
    assert (200, "alice") == (allowed.status, allowed.headers.get("x-user"))
    assert 401 == denied.status
