"""Check over real sockets: the negative cases of the threat model, mutual TLS, health.

What comes in are bytes as Envoy sends them (or as nobody should); what must come out is a `CheckResponse` with an
explicit status, whatever came in.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.json_format import MessageToDict
from grpc_health.v1 import health_pb2

from app.decision.attributes import Transport
from app.policy.decision import Reason
from app.rpc.check import CHECK_PATH, CheckCertificates
from app.rpc.pb.ext_authz_pb2 import CheckRequest, CheckResponse
from tests.support.check_servers import Serving, certificates_from, check_listener
from tests.support.decisions import (
    FRONTEND,
    LOCAL_WAYPOINT,
    MTLS_WAYPOINT,
    ORDERS_IP,
    READERS,
    REPORTS,
    WAYPOINT,
    Worker,
    at_waypoint,
    worker,
)
from tests.support.pki import TestAuthority
from tests.support.snapshots import mesh, policy

XFCC = {"x-forwarded-client-cert": f"By={WAYPOINT};URI={FRONTEND}"}
EVERYBODY = at_waypoint("everybody", action="ALLOW", rules=[{}])
SERVICE = "envoy.service.auth.v3.Authorization"


def question(
    *,
    method: str = "GET",
    path: str = "/orders",
    host: str = "orders",
    headers: Mapping[str, str] = XFCC,
    principal: str = "",
) -> CheckRequest:
    """A CheckRequest as a waypoint sends it."""
    request = CheckRequest()
    attributes = request.attributes
    attributes.source.principal = principal
    attributes.source.address.socket_address.address = "10.0.1.11"
    attributes.destination.address.socket_address.address = ORDERS_IP
    attributes.destination.address.socket_address.port_value = 8080
    http = attributes.request.http
    http.method, http.path, http.host = method, path, host
    http.headers.update(headers)
    return request


class Asking:
    """A client that sends bytes and reads the answer."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._check = channel.unary_unary(CHECK_PATH)

    async def raw(self, data: bytes) -> CheckResponse:
        """The answer to these bytes; an RPC error fails the test."""
        response = CheckResponse.FromString(await self._check(data, timeout=30))
        assert response.HasField("status")
        assert (response.status.code == 0) == (response.WhichOneof("http_response") == "ok_response")
        return response

    async def ask(self, request: CheckRequest | None = None, **fields: object) -> tuple[int, str]:
        """HTTP status (200 when allowed) and reason."""
        if request is None:
            request = question(**fields)  # type: ignore[arg-type]
        response = await self.raw(request.SerializeToString())
        status = 200 if response.status.code == 0 else response.denied_response.status.code
        return status, MessageToDict(response.dynamic_metadata)["reason"]


@asynccontextmanager
async def _asking(serving: Worker) -> AsyncIterator[Asking]:
    async with check_listener(serving) as listener, grpc.aio.insecure_channel(listener.address) as channel:
        yield Asking(channel)


async def test_case_079_what_is_no_check_request_is_denied_as_malformed() -> None:
    """Empty, cut, random, with a path that is no UTF-8: 403, and the next good request is answered."""
    serving = await worker(LOCAL_WAYPOINT, EVERYBODY)
    good = question().SerializeToString()
    async with _asking(serving) as asking:
        for data in (
            b"",
            b"\x0a",
            b"\xff" * 40,
            os.urandom(200),
            good[:-7],
            good.replace(b"/orders", b"/\xff\xfeders"),
        ):
            response = await asking.raw(data)
            assert 403 == response.denied_response.status.code
            assert "MALFORMED" == MessageToDict(response.dynamic_metadata)["reason"]
            assert (200, "ALLOW_RULE") == await asking.ask()


async def test_case_080_a_tcp_check_is_decided_without_http() -> None:
    """Only rules that ask nothing of HTTP can allow it."""
    request = question(principal=FRONTEND)
    request.attributes.request.ClearField("http")
    async with _asking(await worker(LOCAL_WAYPOINT, READERS)) as asking:
        assert (403, "NO_RULE_MATCHED") == await asking.ask(request)
    by_port = at_waypoint("port", rules=[{"to": [{"operation": {"ports": ["8080"]}}]}])
    async with _asking(await worker(LOCAL_WAYPOINT, by_port)) as asking:
        assert (200, "ALLOW_RULE") == await asking.ask(request)


@pytest.mark.parametrize(
    ("method", "path"),
    [("", "/orders"), ("GET", ""), ("GET", "orders"), ("CONNECT", ""), ("CONNECT", "orders:8080"), ("OPTIONS", "*")],
)
async def test_case_081_requests_without_method_or_path_are_denied(method: str, path: str) -> None:
    """Also where a rule allows everybody everything."""
    async with _asking(await worker(LOCAL_WAYPOINT, EVERYBODY)) as asking:
        assert (403, "MALFORMED") == await asking.ask(method=method, path=path)


ADMIN_SPELLINGS = [
    "/admin",
    "//admin",
    "/./admin",
    "/x/../admin",
    "/%61dmin",
    "/admin%2f",
    "/admin%5c",
    "\\admin",
    "/\\admin",
    "/admin;x=1",
    "/x/..;/admin",
    "/admin#f",
    "/admin?",
    "/admin?x=/public/",
    "/admin%00",
    "/%2561dmin",
    "/admin/.",
    "/admin/",
    "/admin%20",
    "/admin%e2%80%8b",
    "/%c0%ae/admin",
    "/x/%c0%ae%c0%ae/admin",
    "/x/%2e%2e/admin",
    "/x/%252e%252e/admin",
    "/x%2f..%2fadmin",
    "http://h/admin",
]
DENY_ADMIN = at_waypoint("admin", action="DENY", rules=[{"to": [{"operation": {"paths": ["/admin", "/admin/*"]}}]}])
ALLOW_PUBLIC = at_waypoint("public", action="ALLOW", rules=[{"to": [{"operation": {"paths": ["/public/*"]}}]}])


@pytest.mark.parametrize("path", ADMIN_SPELLINGS)
async def test_case_082_every_spelling_of_a_denied_path_is_denied(path: str) -> None:
    """Whatever the application behind makes of it."""
    async with _asking(await worker(LOCAL_WAYPOINT, DENY_ADMIN, EVERYBODY)) as asking:
        status, reason = await asking.ask(path=path)
        assert (403, True) == (status, reason in ("DENY_RULE", "MALFORMED", "TOO_AMBIGUOUS")), reason
        assert (200, "ALLOW_RULE") == await asking.ask(path="/orders")


@pytest.mark.parametrize("path", ADMIN_SPELLINGS)
async def test_case_083_an_allowed_prefix_admits_no_spelling_of_another_path(path: str) -> None:
    """`/public/*` admits `/public/...` only, in every reading."""
    async with _asking(await worker(LOCAL_WAYPOINT, ALLOW_PUBLIC)) as asking:
        status, reason = await asking.ask(path=path)
        assert (403, True) == (status, reason in ("NO_RULE_MATCHED", "MALFORMED", "TOO_AMBIGUOUS")), reason
        assert (200, "ALLOW_RULE") == await asking.ask(path="/public/a")


@pytest.mark.parametrize(
    "path",
    ["/public/../admin", "/public/..;/admin", "/public/..%2fadmin", "/public/%2e%2e/admin", "/public/..%5cadmin"],
)
async def test_case_083_known_ways_out_of_a_prefix_are_closed(path: str) -> None:
    """The bypasses that plain prefix matching on a normalised path admits."""
    async with _asking(await worker(LOCAL_WAYPOINT, ALLOW_PUBLIC)) as asking:
        assert 403 == (await asking.ask(path=path))[0]


@pytest.mark.parametrize("host", ["secret.com", "Secret.com", "SECRET.COM", "secret.com:443", "secret.com:8080"])
async def test_case_084_spellings_of_a_denied_host_are_denied(host: str) -> None:
    """Case does not matter, and a port does not help."""
    deny = at_waypoint(
        "secret", action="DENY", rules=[{"to": [{"operation": {"hosts": ["secret.com", "secret.com:*"]}}]}]
    )
    async with _asking(await worker(LOCAL_WAYPOINT, deny, EVERYBODY)) as asking:
        assert (403, "DENY_RULE") == await asking.ask(host=host)
        assert (200, "ALLOW_RULE") == await asking.ask(host="public.com")


@pytest.mark.parametrize(
    "host", ["user@secret.com", "secret.com.", "[::1]", "secret.com,evil.com", "", "xsecret.com", "secret.com.evil.com"]
)
async def test_case_084_what_is_not_the_allowed_host_is_not_allowed(host: str) -> None:
    """An allowed host is that host."""
    allow = at_waypoint("secret", rules=[{"to": [{"operation": {"hosts": ["secret.com", "secret.com:*"]}}]}])
    async with _asking(await worker(LOCAL_WAYPOINT, allow)) as asking:
        assert 403 == (await asking.ask(host=host))[0]
        assert (200, "ALLOW_RULE") == await asking.ask(host="secret.com")


ADMINS = at_waypoint(
    "admins", action="DENY", rules=[{"when": [{"key": "request.headers[X-Role]", "values": ["admin"]}]}]
)
USERS = at_waypoint("users", rules=[{"when": [{"key": "request.headers[x-role]", "values": ["user"]}]}])


@pytest.mark.parametrize("value", ["user,admin", "admin,user", "user, admin", "user ,admin ", "admin"])
async def test_case_085_a_repeated_header_is_denied_by_any_of_its_values(value: str) -> None:
    """Envoy joins them by commas before it asks; what allows one value does not allow two."""
    async with _asking(await worker(LOCAL_WAYPOINT, EVERYBODY, ADMINS)) as asking:
        assert (403, "DENY_RULE") == await asking.ask(headers={**XFCC, "x-role": value})
        assert (200, "ALLOW_RULE") == await asking.ask(headers={**XFCC, "x-role": "user"})
    async with _asking(await worker(LOCAL_WAYPOINT, USERS)) as asking:
        assert (403, "NO_RULE_MATCHED") == await asking.ask(headers={**XFCC, "x-role": value})


async def test_case_085_repeated_raw_headers_are_denied_by_any_of_their_values() -> None:
    """With `encode_raw_headers` they come apart."""
    request = question(headers={})
    for name, raw in (
        (b"X-Role", b"user"),
        (b"x-role", b"admin"),
        *((k.encode(), v.encode()) for k, v in XFCC.items()),
    ):
        header = request.attributes.request.http.header_map.headers.add()
        header.key, header.raw_value = name.decode(), raw
    async with _asking(await worker(LOCAL_WAYPOINT, EVERYBODY, ADMINS)) as asking:
        assert (403, "DENY_RULE") == await asking.ask(request)


async def test_case_086_names_of_headers_are_compared_without_case() -> None:
    """In the policy and on the wire; an underscore, which a service may take for a dash, denies and never allows."""
    request = question(headers={})
    for name, raw in (("X-ROLE", b"admin"), *((k, v.encode()) for k, v in XFCC.items())):
        header = request.attributes.request.http.header_map.headers.add()
        header.key, header.raw_value = name, raw
    async with _asking(await worker(LOCAL_WAYPOINT, EVERYBODY, ADMINS)) as asking:
        assert (403, "DENY_RULE") == await asking.ask(request)
        for name in ("x-role", "x_role"):
            assert (403, "DENY_RULE") == await asking.ask(headers={**XFCC, name: "admin"}), name
    async with _asking(await worker(LOCAL_WAYPOINT, USERS)) as asking:
        assert (403, "NO_RULE_MATCHED") == await asking.ask(headers={**XFCC, "x_role": "user"})
        assert (403, "NO_RULE_MATCHED") == await asking.ask(headers={**XFCC, "x-role": "user", "x_role": "admin"})


@pytest.mark.parametrize("raw", [b"us\xffer", b"user\xff", b"\xffuser", b"user\xc0\xae", b"user!"])
async def test_case_087_bytes_that_are_no_text_allow_nothing(raw: bytes) -> None:
    """They become exclamation marks, by Envoy or here, and a value with one is another value."""
    replaced = question(headers={**XFCC, "x-role": raw.decode("utf-8", "replace").replace("\ufffd", "!")})
    apart = question(headers={})
    for name, value in (("x-role", raw), *((k, v.encode()) for k, v in XFCC.items())):
        header = apart.attributes.request.http.header_map.headers.add()
        header.key, header.raw_value = name, value
    async with _asking(await worker(LOCAL_WAYPOINT, USERS)) as asking:
        assert (200, "ALLOW_RULE") == await asking.ask(headers={**XFCC, "x-role": "user"})
        for request in (replaced, apart):
            assert (403, "NO_RULE_MATCHED") == await asking.ask(request)


async def test_case_088_a_thousand_headers_of_sixty_kilobytes_are_decided() -> None:
    """With more of them than the bound the answer is a denial, not an error."""
    many = {f"x-header-{number}": "v" * 50 for number in range(998)}
    async with _asking(await worker(LOCAL_WAYPOINT, EVERYBODY, ADMINS)) as asking:
        assert (200, "ALLOW_RULE") == await asking.ask(headers={**XFCC, **many, "x-other": "v"})
        assert (403, "DENY_RULE") == await asking.ask(headers={**XFCC, **many, "x-role": "admin"})
        assert (403, "MALFORMED") == await asking.ask(headers={**XFCC, **many, "x-a": "1", "x-b": "2"})


async def test_case_090_identities_match_as_a_whole() -> None:
    """Empty, no SPIFFE ID, another trust domain, a longer name, a dot that is a letter: no accidental match."""
    exact = at_waypoint("exact", rules=[{"from": [{"source": {"principals": ["cluster.local/ns/shop/sa/a.b"]}}]}])
    serving = await worker(LOCAL_WAYPOINT, exact, mesh(trustDomain="cluster.local"))
    async with _asking(serving) as asking:
        for principal in (
            "spiffe://cluster.local/ns/shop/sa/axb",
            "spiffe://cluster.local/ns/shop/sa/a.bc",
            "spiffe://other.local/ns/shop/sa/a.b",
            "spiffe://cluster.local/ns/shop/sa/a.b/sa/c",
            "cluster.local/ns/shop/sa/a.b",
            "SPIFFE://cluster.local/ns/shop/sa/a.b",
            "a.b",
        ):
            assert (403, "NO_RULE_MATCHED") == await asking.ask(principal=principal, headers={})
        assert (200, "ALLOW_RULE") == await asking.ask(principal="spiffe://cluster.local/ns/shop/sa/a.b")


async def test_case_091_headers_that_clients_write_say_neither_who_nor_where() -> None:
    """XFCC beside a principal, the original path, the original destination: not looked at."""
    serving = await worker(LOCAL_WAYPOINT, READERS)
    forged = {
        **XFCC,
        "x-envoy-original-path": "/orders",
        "x-envoy-original-dst-host": f"{ORDERS_IP}:8080",
        "x-forwarded-host": "orders",
    }
    async with _asking(serving) as asking:
        assert (403, "NO_RULE_MATCHED") == await asking.ask(principal=REPORTS, headers=forged)
        assert (403, "NO_RULE_MATCHED") == await asking.ask(path="/internal", headers=forged)
        assert (200, "ALLOW_RULE") == await asking.ask(headers=forged)


async def test_case_092_context_extensions_and_metadata_change_nothing() -> None:
    """Not even those that we know count, from a waypoint that was not registered as one that may name services."""
    request = question(principal=REPORTS)
    request.attributes.context_extensions.update({"principal": FRONTEND, "gatehouse.dev/service": "bank/orders"})
    request.attributes.metadata_context.filter_metadata["envoy.filters.http.jwt_authn"].update({"sub": FRONTEND})
    async with _asking(await worker(LOCAL_WAYPOINT, READERS)) as asking:
        assert (403, "NO_RULE_MATCHED") == await asking.ask(request)


async def test_case_096_until_a_snapshot_is_loaded_health_is_not_serving_and_checks_are_denied() -> None:
    """Envoy sends elsewhere; what comes anyway is denied with 503."""
    empty = Worker()
    async with (
        check_listener(empty, healthy=False) as listener,
        grpc.aio.insecure_channel(listener.address) as channel,
    ):
        health = channel.unary_unary(
            "/grpc.health.v1.Health/Check", response_deserializer=health_pb2.HealthCheckResponse.FromString
        )
        for service in ("", SERVICE):
            data = health_pb2.HealthCheckRequest(service=service).SerializeToString()
            assert health_pb2.HealthCheckResponse.NOT_SERVING == (await health(data)).status
        asking = Asking(channel)
        assert (503, Reason.NO_SNAPSHOT.value) == await asking.ask()
        await empty.put(LOCAL_WAYPOINT, EVERYBODY)
        await listener.server.health.set_all(True)
        for service in ("", SERVICE):
            data = health_pb2.HealthCheckRequest(service=service).SerializeToString()
            assert health_pb2.HealthCheckResponse.SERVING == (await health(data)).status
        assert (200, "ALLOW_RULE") == await asking.ask()


async def test_a_denial_carries_no_inner_text() -> None:
    """What the client sees is an id and the words that Envoy itself would use."""
    async with _asking(await worker(LOCAL_WAYPOINT, DENY_ADMIN)) as asking:
        response = await asking.raw(question(path="/admin").SerializeToString())
        assert "RBAC: access denied" == response.denied_response.body
        assert ["x-gatehouse-decision"] == [option.header.key for option in response.denied_response.headers]
        metadata = MessageToDict(response.dynamic_metadata)
        assert "shop/admin" == metadata["policy"]
        assert metadata["decision_id"] == response.denied_response.headers[0].header.value


# Mutual TLS


@pytest.fixture(name="authority", scope="module")
def _authority(tmp_path_factory: pytest.TempPathFactory) -> TestAuthority:
    return TestAuthority(tmp_path_factory.mktemp("pki"))


@asynccontextmanager
async def _secure_channel(
    listener: Serving, authority: TestAuthority, spiffe_id: str | None, *, dns: str = ""
) -> AsyncIterator[grpc.aio.Channel]:
    key = chain = None
    if spiffe_id is not None or dns:
        issued = authority.issue(spiffe_id, file_name=f"client-{os.urandom(4).hex()}", dns=dns)
        key, chain = issued.private_key.read_bytes(), issued.certificate.read_bytes()
    credentials = grpc.ssl_channel_credentials(authority.bundle.read_bytes(), key, chain)
    options = [("grpc.ssl_target_name_override", "worker.gatehouse")]
    async with grpc.aio.secure_channel(listener.address, credentials, options) as channel:
        yield channel


def _worker_certificates(authority: TestAuthority) -> CheckCertificates:
    return certificates_from(
        authority.issue("spiffe://cluster.local/ns/gatehouse/sa/worker", file_name="worker", dns="worker.gatehouse")
    )


async def test_case_093_on_9193_only_registered_enforcement_points_get_decisions(authority: TestAuthority) -> None:
    """A registered waypoint is served; a workload, or a certificate without a SPIFFE ID, is told CALLER_UNKNOWN."""
    serving = await worker(MTLS_WAYPOINT, EVERYBODY)
    async with check_listener(serving, Transport.MUTUAL_TLS, certificates=_worker_certificates(authority)) as listener:
        async with _secure_channel(listener, authority, WAYPOINT) as channel:
            assert (200, "ALLOW_RULE") == await Asking(channel).ask()
        async with _secure_channel(listener, authority, FRONTEND) as channel:
            assert (403, "CALLER_UNKNOWN") == await Asking(channel).ask()
            response = await Asking(channel).raw(question().SerializeToString())
            assert grpc.StatusCode.UNAUTHENTICATED.value[0] == response.status.code
        async with _secure_channel(listener, authority, None, dns="waypoint.shop") as channel:
            assert (403, "CALLER_UNKNOWN") == await Asking(channel).ask()


def _two_names(authority: TestAuthority) -> tuple[bytes, bytes]:
    """A certificate that names two identities, and its key: no such thing is a SPIFFE X.509-SVID."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    names = [x509.UniformResourceIdentifier(name) for name in (WAYPOINT, FRONTEND)]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(authority.root.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .sign(authority._key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    return certificate.public_bytes(pem), key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


async def test_case_093_a_certificate_with_two_identities_is_nobody(authority: TestAuthority) -> None:
    """Not even when one of them is a registered waypoint."""
    serving = await worker(MTLS_WAYPOINT, EVERYBODY)
    chain, key = _two_names(authority)
    async with check_listener(serving, Transport.MUTUAL_TLS, certificates=_worker_certificates(authority)) as listener:
        credentials = grpc.ssl_channel_credentials(authority.bundle.read_bytes(), key, chain)
        options = [("grpc.ssl_target_name_override", "worker.gatehouse")]
        async with grpc.aio.secure_channel(listener.address, credentials, options) as channel:
            assert (403, "CALLER_UNKNOWN") == await Asking(channel).ask()


async def test_case_093_without_a_certificate_of_the_mesh_there_is_no_connection(
    authority: TestAuthority, tmp_path: Path
) -> None:
    """No client certificate, or one of another root."""
    serving = await worker(MTLS_WAYPOINT, EVERYBODY)
    stranger = TestAuthority(tmp_path, name="stranger").issue(WAYPOINT, file_name="stranger-waypoint")
    async with check_listener(serving, Transport.MUTUAL_TLS, certificates=_worker_certificates(authority)) as listener:
        async with _secure_channel(listener, authority, None) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await Asking(channel).ask()
            assert grpc.StatusCode.UNAVAILABLE == caught.value.code()
        credentials = grpc.ssl_channel_credentials(
            authority.bundle.read_bytes(), stranger.private_key.read_bytes(), stranger.certificate.read_bytes()
        )
        options = [("grpc.ssl_target_name_override", "worker.gatehouse")]
        async with grpc.aio.secure_channel(listener.address, credentials, options) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await Asking(channel).ask()
            assert grpc.StatusCode.UNAVAILABLE == caught.value.code()


async def test_a_new_trust_bundle_and_certificate_hold_for_the_next_connection(
    authority: TestAuthority, tmp_path: Path
) -> None:
    """Without a restart: callers under the new root are accepted, callers under the old one are not any more."""
    serving = await worker(MTLS_WAYPOINT, EVERYBODY)
    successor = TestAuthority(tmp_path, name="successor")
    current = authority

    def issued(of: TestAuthority) -> tuple[bytes, bytes]:
        credentials = of.issue(None, file_name="serving", dns="worker.gatehouse")
        return credentials.certificate.read_bytes(), credentials.private_key.read_bytes()

    serving_now = issued(authority)

    def roots() -> str:
        return current.bundle.read_text()

    certificates = CheckCertificates(lambda: serving_now, roots)
    async with check_listener(serving, Transport.MUTUAL_TLS, certificates=certificates) as listener:
        async with _secure_channel(listener, authority, WAYPOINT) as channel:
            assert (200, "ALLOW_RULE") == await Asking(channel).ask()
        current, serving_now = successor, issued(successor)
        async with _secure_channel(listener, successor, WAYPOINT) as channel:
            assert (200, "ALLOW_RULE") == await Asking(channel).ask()
        async with _secure_channel(listener, authority, WAYPOINT) as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await Asking(channel).ask()


async def test_case_017_a_session_of_a_removed_root_is_not_resumed(authority: TestAuthority, tmp_path: Path) -> None:
    """A ticket from before the change does not spare the caller the new verification."""
    serving = await worker(MTLS_WAYPOINT, EVERYBODY)
    successor = TestAuthority(tmp_path, name="successor")
    served = authority.issue(None, file_name="serving-17", dns="worker.gatehouse")
    pair = served.certificate.read_bytes(), served.private_key.read_bytes()
    roots = authority.bundle.read_text()
    caller = authority.issue(WAYPOINT, file_name="caller-17")
    context = ssl.create_default_context(cafile=str(authority.bundle))
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(caller.certificate, caller.private_key)

    def handshake(address: str, session: ssl.SSLSession | None) -> tuple[bool, ssl.SSLSession | None]:
        """Whether the server still talks to us after the handshake, and the session to resume."""
        host, _, port = address.rpartition(":")
        with (
            socket.create_connection((host, int(port)), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname="worker.gatehouse", session=session) as tls,
        ):
            try:
                talks = tls.recv(9) != b""  # the first frame of HTTP/2 is the server's SETTINGS
            except (ssl.SSLError, ConnectionError):
                talks = False
            return talks, tls.session

    async with check_listener(
        serving, Transport.MUTUAL_TLS, certificates=CheckCertificates(lambda: pair, lambda: roots)
    ) as listener:
        talks, session = await asyncio.to_thread(handshake, listener.address, None)
        assert talks
        talks, _ = await asyncio.to_thread(handshake, listener.address, session)
        assert talks
        roots = successor.bundle.read_text()
        talks, _ = await asyncio.to_thread(handshake, listener.address, session)
        assert not talks
        talks, _ = await asyncio.to_thread(handshake, listener.address, None)
        assert not talks


async def test_answers_keep_coming_while_snapshots_are_swapped() -> None:
    """Every answer is by one whole snapshot, the old one or the new one."""
    serving = await worker(LOCAL_WAYPOINT, READERS)
    async with _asking(serving) as asking:
        done = asyncio.Event()
        seen: set[tuple[int, str]] = set()

        async def ask() -> None:
            while not done.is_set():
                seen.add(await asking.ask())

        asked = [asyncio.create_task(ask()) for _ in range(8)]
        for number in range(20):
            action = "DENY" if number % 2 else "ALLOW"
            await serving.put(at_waypoint("flip", action=action, rules=[{}]), policy(f"p{number}", rules=[{}]))
            await asyncio.sleep(0.01)
        done.set()
        await asyncio.gather(*asked)
        assert {(200, "ALLOW_RULE"), (403, "DENY_RULE")} == seen
