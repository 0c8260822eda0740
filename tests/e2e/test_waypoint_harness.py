"""The Envoy harness itself: what a Check carries in each variant, against a tiny authorization service."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import httpx2
import pytest

from app.demo.waypoint import (
    Credentials,
    ExtAuthz,
    HboneClient,
    NativeRbac,
    Sidecar,
    Tunnel,
    Waypoint,
    WaypointOptions,
)
from app.errors import AppError, ErrorCode
from app.rpc.pb import ext_authz_pb2 as pb
from tests.support.pki import TestAuthority

pytestmark = pytest.mark.e2e

WAYPOINT = "spiffe://cluster.local/ns/shop/sa/waypoint"
WEB = "spiffe://cluster.local/ns/shop/sa/web"
VIP = "10.96.0.10:8080"
XFCC = "x-forwarded-client-cert"


@dataclass
class RecordingService:
    """Allows everything but /denied, and remembers what it was asked."""

    address: str = ""
    asked: list[pb.AttributeContext] = field(default_factory=list)

    async def check(self, request: pb.CheckRequest, _context: object) -> pb.CheckResponse:
        self.asked.append(request.attributes)
        answer = pb.CheckResponse()
        answer.dynamic_metadata["decision_id"] = "d1"
        if request.attributes.request.http.path == "/denied":
            answer.status.code = 7
            answer.denied_response.status.code = 403
        else:
            answer.ok_response.SetInParent()
        return answer


@contextlib.asynccontextmanager
async def _authorization(address: str, tls: Credentials | None = None) -> AsyncIterator[RecordingService]:
    service = RecordingService()
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        service.check,
        request_deserializer=pb.CheckRequest.FromString,
        response_serializer=pb.CheckResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("envoy.service.auth.v3.Authorization", {"Check": handler}),)
    )
    if tls is None:
        port = server.add_insecure_port(address)
    else:
        credentials = grpc.ssl_server_credentials(
            [(tls.private_key.read_bytes(), tls.certificate.read_bytes())],
            root_certificates=tls.trust_bundle.read_bytes(),
            require_client_auth=True,
        )
        port = server.add_secure_port(address, credentials)
    service.address = address if address.startswith("unix:") else f"127.0.0.1:{port}"
    await server.start()
    try:
        yield service
    finally:
        await server.stop(None)


@pytest.fixture(name="authority", scope="module")
def _authority(tmp_path_factory: pytest.TempPathFactory) -> TestAuthority:
    return TestAuthority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(name="waypoint_identity", scope="module")
def _waypoint_identity(authority: TestAuthority) -> Credentials:
    return authority.issue(WAYPOINT, file_name="waypoint")


@pytest.fixture(name="web", scope="module")
def _web(authority: TestAuthority) -> Credentials:
    return authority.issue(WEB, file_name="web")


async def _get(url: str, headers: dict[str, str] | None = None) -> httpx2.Response:
    async with httpx2.AsyncClient(timeout=20.0, trust_env=False) as http:
        return await http.get(url, headers=headers or {})


async def test_waypoint_with_annotation_overwrites_a_forged_identity(
    tmp_path: Path, waypoint_identity: Credentials, web: Credentials
) -> None:
    """Check sees the tunnel's identity in XFCC, no principal, the client's address and the service's."""
    async with _authorization("127.0.0.1:0") as service:
        options = WaypointOptions(credentials=waypoint_identity, enforcement=ExtAuthz(address=service.address))
        async with Waypoint(options, tmp_path) as waypoint:
            tunnel = Tunnel(credentials=web, proxy=waypoint.address, destination=VIP, source_address="127.0.0.7")
            async with HboneClient({"web": tunnel}, tmp_path) as client:
                response = await _get(client.url("web") + "/cart?x=1", {XFCC: "URI=spiffe://cluster.local/ns/a/sa/b"})
                denied = await _get(client.url("web") + "/denied")
                rows = await waypoint.wait_for_requests(2)

    asked = service.asked[0]
    assert 200 == response.status_code
    assert 403 == denied.status_code
    assert f"By={WAYPOINT};URI={WEB}" == asked.request.http.headers[XFCC]
    assert "" == asked.source.principal
    assert "127.0.0.7" == asked.source.address.socket_address.address
    assert ("10.96.0.10", 8080) == (
        asked.destination.address.socket_address.address,
        asked.destination.address.socket_address.port_value,
    )
    assert "/cart?x=1" == asked.request.http.path
    assert [(200, WEB), (403, WEB)] == [(row["status"], row["peer"]) for row in rows]
    assert {"decision_id": "d1"}.items() <= rows[1]["decision"].items()


async def test_waypoint_without_annotation_sends_no_identity(
    tmp_path: Path, waypoint_identity: Credentials, web: Credentials
) -> None:
    """A forged XFCC is stripped, and nothing stands in its place."""
    async with _authorization("127.0.0.1:0") as service:
        options = WaypointOptions(
            credentials=waypoint_identity,
            enforcement=ExtAuthz(address=service.address),
            forward_client_identity=False,
        )
        async with Waypoint(options, tmp_path) as waypoint:
            tunnel = Tunnel(credentials=web, proxy=waypoint.address, destination=VIP)
            async with HboneClient({"web": tunnel}, tmp_path) as client:
                response = await _get(client.url("web"), {XFCC: "URI=spiffe://cluster.local/ns/a/sa/b"})

    assert 200 == response.status_code
    assert XFCC not in service.asked[0].request.http.headers
    assert "" == service.asked[0].source.principal


async def test_waypoint_asks_over_mutual_tls(
    tmp_path: Path, authority: TestAuthority, waypoint_identity: Credentials, web: Credentials
) -> None:
    """With credentials the connection to the authorization service is mutual TLS."""
    serving = authority.issue("spiffe://cluster.local/ns/gatehouse/sa/decision", file_name="serving")
    async with _authorization("127.0.0.1:0", serving) as service:
        enforcement = ExtAuthz(address=service.address, credentials=waypoint_identity)
        async with Waypoint(WaypointOptions(credentials=waypoint_identity, enforcement=enforcement), tmp_path) as proxy:
            tunnel = Tunnel(credentials=web, proxy=proxy.address, destination=VIP)
            async with HboneClient({"web": tunnel}, tmp_path) as client:
                response = await _get(client.url("web"))

    assert 200 == response.status_code
    assert 1 == len(service.asked)


async def test_waypoint_asks_over_a_unix_socket(
    tmp_path: Path, waypoint_identity: Credentials, web: Credentials
) -> None:
    """The authorization service may listen on a UNIX socket."""
    async with _authorization(f"unix:{tmp_path}/authz.sock") as service:
        options = WaypointOptions(credentials=waypoint_identity, enforcement=ExtAuthz(address=service.address))
        async with Waypoint(options, tmp_path) as waypoint:
            tunnel = Tunnel(credentials=web, proxy=waypoint.address, destination=VIP)
            async with HboneClient({"web": tunnel}, tmp_path) as client:
                response = await _get(client.url("web"))

    assert 200 == response.status_code


async def test_waypoint_fails_closed_when_nobody_answers(
    tmp_path: Path, waypoint_identity: Credentials, web: Credentials
) -> None:
    """Without an authorization service every request is refused by Envoy itself."""
    enforcement = ExtAuthz(address="127.0.0.1:9")
    async with Waypoint(WaypointOptions(credentials=waypoint_identity, enforcement=enforcement), tmp_path) as waypoint:
        tunnel = Tunnel(credentials=web, proxy=waypoint.address, destination=VIP)
        async with HboneClient({"web": tunnel}, tmp_path) as client:
            response = await _get(client.url("web"))
            rows = await waypoint.wait_for_requests(1)

    assert 403 == response.status_code
    assert "ext_authz_error" == rows[0]["details"]


async def test_native_rbac_reads_the_tunnels_identity(
    tmp_path: Path, authority: TestAuthority, waypoint_identity: Credentials, web: Credentials
) -> None:
    """Envoy's own RBAC decides from filter state, as Istio lets it."""
    principal = {"filter_state": {"key": "io.istio.peer_principal", "string_match": {"exact": WEB}}}
    rules = {"action": "ALLOW", "policies": {"web": {"permissions": [{"any": True}], "principals": [principal]}}}
    other = authority.issue("spiffe://cluster.local/ns/shop/sa/other", file_name="other")
    options = WaypointOptions(credentials=waypoint_identity, enforcement=NativeRbac(rules=rules))
    async with Waypoint(options, tmp_path) as waypoint:
        tunnels = {
            "web": Tunnel(credentials=web, proxy=waypoint.address, destination=VIP),
            "other": Tunnel(credentials=other, proxy=waypoint.address, destination=VIP),
        }
        async with HboneClient(tunnels, tmp_path) as client:
            allowed = await _get(client.url("web"))
            denied = await _get(client.url("other"))

    assert (200, 403) == (allowed.status_code, denied.status_code)


async def test_sidecar_fills_the_principal(tmp_path: Path, waypoint_identity: Credentials, web: Credentials) -> None:
    """Where Envoy ends mutual TLS itself, Check carries the peer as source.principal."""
    async with _authorization("127.0.0.1:0") as service:
        options = WaypointOptions(credentials=waypoint_identity, enforcement=ExtAuthz(address=service.address))
        async with Sidecar(options, tmp_path) as sidecar:
            async with HboneClient({"web": Tunnel(credentials=web, proxy=sidecar.address)}, tmp_path) as client:
                response = await _get(client.url("web"))

    assert 200 == response.status_code
    assert WEB == service.asked[0].source.principal
    assert WAYPOINT == service.asked[0].destination.principal


async def test_a_client_without_a_trusted_certificate_gets_nothing(
    tmp_path: Path, waypoint_identity: Credentials
) -> None:
    """The waypoint demands a client certificate of its own trust bundle."""
    stranger = TestAuthority(tmp_path, name="stranger root").issue(WEB, file_name="stranger")
    credentials = Credentials(
        certificate=stranger.certificate,
        private_key=stranger.private_key,
        trust_bundle=waypoint_identity.trust_bundle,
    )
    async with Waypoint(WaypointOptions(credentials=waypoint_identity), tmp_path) as waypoint:
        tunnel = Tunnel(credentials=credentials, proxy=waypoint.address, destination=VIP)
        async with HboneClient({"web": tunnel}, tmp_path) as client:
            with pytest.raises(httpx2.TransportError):
                await _get(client.url("web"))


async def test_a_configuration_that_envoy_refuses_is_an_error(tmp_path: Path, web: Credentials) -> None:
    """The end of Envoy's own log is in the error."""
    broken = WaypointOptions(credentials=web, enforcement=NativeRbac(rules={"no_such_field": 1}))
    with pytest.raises(AppError, match="no_such_field") as caught:
        async with Waypoint(broken, tmp_path):
            pass

    assert ErrorCode.UNAVAILABLE == caught.value.code
