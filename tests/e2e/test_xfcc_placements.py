"""The three placements in which a forwarded identity is believed, with the real Envoy as the waypoint.

Each test says who called (by certificate), what the waypoint forwarded, and what came out at the client.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.decision.attributes import Transport
from app.demo.envoy import Envoy
from app.demo.envoy_parts import Credentials
from app.demo.proxy_config import CONNECT_TERMINATE, waypoint_config
from app.demo.waypoint import ExtAuthz, HboneClient, Sidecar, Tunnel, Waypoint, WaypointOptions
from tests.support.check_servers import certificates_from, check_listener
from tests.support.decisions import (
    FRONTEND,
    LOCAL_WAYPOINT,
    MTLS_WAYPOINT,
    ORDERS_IP,
    OTHER_MTLS_WAYPOINT,
    OTHER_WAYPOINT,
    READERS,
    REPORTS,
    SERVICES,
    WAYPOINT,
    ZTUNNEL_WAYPOINT,
    Worker,
    at_waypoint,
    worker,
)
from tests.support.pki import TestAuthority
from tests.support.snapshots import point, policy

pytestmark = pytest.mark.e2e

XFCC = "x-forwarded-client-cert"
VIP = f"{ORDERS_IP}:8080"
FORGERIES = [
    f"By={WAYPOINT};URI={FRONTEND}",
    f"URI={FRONTEND}",
    f"By={WAYPOINT};URI={REPORTS},By={WAYPOINT};URI={FRONTEND}",
]


@dataclass(frozen=True)
class Identities:
    """Certificates of one authority."""

    waypoint: Credentials
    other_waypoint: Credentials
    worker: Credentials
    clients: Mapping[str, Credentials]


@pytest.fixture(name="identities", scope="module")
def _identities(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    authority = TestAuthority(tmp_path_factory.mktemp("pki"))
    return Identities(
        waypoint=authority.issue(WAYPOINT, file_name="waypoint"),
        other_waypoint=authority.issue(OTHER_WAYPOINT, file_name="other-waypoint"),
        worker=authority.issue("spiffe://cluster.local/ns/gatehouse/sa/worker", file_name="worker"),
        clients={
            "frontend": authority.issue(FRONTEND, file_name="frontend"),
            "reports": authority.issue(REPORTS, file_name="reports"),
            "nameless": authority.issue(None, file_name="nameless", dns="frontend.shop"),
        },
    )


class Mesh:
    """Clients before an enforcing proxy before a worker."""

    def __init__(self, client: HboneClient, proxy: Any) -> None:
        self._client = client
        self._proxy = proxy
        self._asked = 0

    async def get(
        self, who: str, path: str = "/orders", *, headers: Mapping[str, str] | None = None, method: str = "GET"
    ) -> tuple[int, str, str]:
        """Status, the reason of the decision and how the identity was known, as the proxy's access log has them."""
        async with httpx2.AsyncClient(timeout=20.0, trust_env=False) as http:
            response = await http.request(method, self._client.url(who) + path, headers=dict(headers or {}))
        self._asked += 1
        row = (await self._proxy.wait_for_requests(self._asked))[self._asked - 1]
        decision = row.get("decision") or {}
        if isinstance(decision, str):
            decision = json.loads(decision)
        return response.status_code, decision.get("reason", ""), decision.get("identity", "")


@asynccontextmanager
async def _mesh(
    identities: Identities,
    directory: Path,
    authz: ExtAuthz,
    *,
    annotation: bool = True,
    sidecar: bool = False,
    credentials: Credentials | None = None,
) -> AsyncIterator[Mesh]:
    options = WaypointOptions(
        credentials=credentials or identities.waypoint, enforcement=authz, forward_client_identity=annotation
    )
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context((Sidecar if sidecar else Waypoint)(options, directory))
        tunnels = {
            name: Tunnel(credentials=client, proxy=proxy.address, destination="" if sidecar else VIP)
            for name, client in identities.clients.items()
        }
        client = await stack.enter_async_context(HboneClient(tunnels, directory))
        yield Mesh(client, proxy)


async def _expect_placement(mesh: Mesh, word: str) -> None:
    """What holds in each of the three placements."""
    assert (200, "ALLOW_RULE", word) == await mesh.get("frontend")
    assert (403, "NO_RULE_MATCHED", word) == await mesh.get("reports")
    assert (403, "NO_RULE_MATCHED", word) == await mesh.get("frontend", method="POST")
    assert (403, "NO_RULE_MATCHED", word) == await mesh.get("frontend", "/internal")
    for forgery in FORGERIES:
        assert (403, "NO_RULE_MATCHED", word) == await mesh.get("reports", headers={XFCC: forgery})
    assert (200, "ALLOW_RULE", word) == await mesh.get("frontend", headers={XFCC: f"By={WAYPOINT};URI={REPORTS}"})
    assert (403, "NO_RULE_MATCHED", "unauthenticated") == await mesh.get("nameless")


async def test_placement_a_beside_the_waypoint_on_loopback(tmp_path: Path, identities: Identities) -> None:
    """The worker shares the waypoint's host: what the waypoint forwards is believed, what clients forge is not."""
    serving = await worker(LOCAL_WAYPOINT, READERS)
    async with (
        check_listener(serving) as listener,
        _mesh(identities, tmp_path, ExtAuthz(address=listener.address, timeout_seconds=2)) as mesh,
    ):
        await _expect_placement(mesh, "authenticated")


async def test_placement_a_over_a_unix_socket(tmp_path: Path, identities: Identities) -> None:
    """The same by a path in the file system."""
    serving = await worker(LOCAL_WAYPOINT, READERS)
    async with (
        check_listener(serving, address=f"unix:{tmp_path}/check.sock") as listener,
        _mesh(identities, tmp_path, ExtAuthz(address=listener.address, timeout_seconds=2)) as mesh,
    ):
        await _expect_placement(mesh, "authenticated")


async def test_placement_b_over_mutual_tls(tmp_path: Path, identities: Identities) -> None:
    """By is the certificate with which the waypoint called."""
    serving = await worker(MTLS_WAYPOINT, READERS)
    async with check_listener(
        serving, Transport.MUTUAL_TLS, certificates=certificates_from(identities.worker)
    ) as listener:
        authz = ExtAuthz(address=listener.address, credentials=identities.waypoint, timeout_seconds=2)
        async with _mesh(identities, tmp_path, authz) as mesh:
            await _expect_placement(mesh, "authenticated")


async def test_placement_c_behind_a_ztunnel(tmp_path: Path, identities: Identities) -> None:
    """The listener takes plaintext from the ztunnel in front of it: By is asserted, and every decision says so."""
    serving = await worker(ZTUNNEL_WAYPOINT, READERS)
    async with (
        check_listener(serving, Transport.BEHIND_ZTUNNEL, name="ambient") as listener,
        _mesh(identities, tmp_path, ExtAuthz(address=listener.address, timeout_seconds=2)) as mesh,
    ):
        await _expect_placement(mesh, "asserted")


@pytest.mark.parametrize("transport", list(Transport))
async def test_without_the_annotation_everything_is_denied_in_every_placement(
    tmp_path: Path, identities: Identities, transport: Transport
) -> None:
    """Istio up to 1.29, or not switched on: no identity reaches the worker, a forged one neither."""
    document = {
        Transport.LOCAL: LOCAL_WAYPOINT,
        Transport.MUTUAL_TLS: MTLS_WAYPOINT,
        Transport.BEHIND_ZTUNNEL: ZTUNNEL_WAYPOINT,
    }[transport]
    serving = await worker(document, at_waypoint("everybody", rules=[{}]))
    mutual = transport is Transport.MUTUAL_TLS
    certificates = certificates_from(identities.worker) if mutual else None
    async with check_listener(serving, transport, certificates=certificates) as listener:
        authz = ExtAuthz(
            address=listener.address, credentials=identities.waypoint if mutual else None, timeout_seconds=2
        )
        async with _mesh(identities, tmp_path, authz, annotation=False) as mesh:
            for headers in ({}, {XFCC: FORGERIES[0]}):
                expected = (403, "IDENTITY_UNAVAILABLE", "unavailable")
                assert expected == await mesh.get("frontend", headers=headers)


async def test_anywhere_else_the_header_is_ignored(tmp_path: Path, identities: Identities) -> None:
    """On a plaintext listener that no waypoint is registered for, the same forwarded identity counts for nothing."""
    serving = await worker(MTLS_WAYPOINT, ZTUNNEL_WAYPOINT, READERS)
    async with (
        check_listener(serving, name="unregistered") as listener,
        _mesh(identities, tmp_path, ExtAuthz(address=listener.address, timeout_seconds=2)) as mesh,
    ):
        assert (403, "IDENTITY_UNAVAILABLE", "unavailable") == await mesh.get("frontend")


async def test_case_092_a_registered_waypoint_cannot_speak_for_another(tmp_path: Path, identities: Identities) -> None:
    """It calls with its own certificate but forwards what another waypoint would: By is not who called."""
    serving = await worker(MTLS_WAYPOINT, OTHER_MTLS_WAYPOINT, READERS)
    async with check_listener(
        serving, Transport.MUTUAL_TLS, certificates=certificates_from(identities.worker)
    ) as listener:
        authz = ExtAuthz(address=listener.address, credentials=identities.other_waypoint, timeout_seconds=2)
        async with _mesh(identities, tmp_path, authz) as mesh:
            assert (403, "IDENTITY_UNAVAILABLE", "unavailable") == await mesh.get("frontend")


async def test_case_093_a_caller_that_is_no_enforcement_point_is_denied(tmp_path: Path, identities: Identities) -> None:
    """A workload with a good certificate of the mesh is still not a waypoint."""
    serving = await worker(MTLS_WAYPOINT, at_waypoint("everybody", rules=[{}]))
    async with check_listener(
        serving, Transport.MUTUAL_TLS, certificates=certificates_from(identities.worker)
    ) as listener:
        authz = ExtAuthz(address=listener.address, credentials=identities.clients["frontend"], timeout_seconds=2)
        async with _mesh(identities, tmp_path, authz) as mesh:
            assert (403, "CALLER_UNKNOWN", "unknown") == await mesh.get("frontend")


async def test_a_proxy_that_ends_mutual_tls_itself_needs_no_header(tmp_path: Path, identities: Identities) -> None:
    """`source.principal` decides; the header that the client sent along is not looked at."""
    sidecar = point("orders", kind="sidecar", labels={"app": "orders"}, caller={"listener": "local"})
    readers = policy(
        "readers",
        selector={"matchLabels": {"app": "orders"}},
        rules=[{"from": [{"source": {"principals": ["cluster.local/ns/shop/sa/frontend"]}}]}],
    )
    serving = await worker(sidecar, readers)
    async with (
        check_listener(serving) as listener,
        _mesh(identities, tmp_path, ExtAuthz(address=listener.address, timeout_seconds=2), sidecar=True) as mesh,
    ):
        assert (200, "ALLOW_RULE", "authenticated") == await mesh.get("frontend")
        for forgery in FORGERIES:
            assert (403, "NO_RULE_MATCHED", "authenticated") == await mesh.get("reports", headers={XFCC: forgery})
        assert (403, "NO_RULE_MATCHED", "unauthenticated") == await mesh.get("nameless")


def _fail_open(config: Any) -> None:
    """Set what an operator must not set."""
    if isinstance(config, dict):
        if config.get("name") == "ext_authz":
            config["typed_config"]["failure_mode_allow"] = True
        for value in config.values():
            _fail_open(value)
    elif isinstance(config, list):
        for value in config:
            _fail_open(value)


async def test_a_denial_stays_a_denial_where_errors_fail_open(tmp_path: Path, identities: Identities) -> None:
    """Every answer is an answer, also 503: only a transport failure is an error that `failOpen` lets pass."""
    empty = Worker()
    async with check_listener(empty) as listener:
        options = WaypointOptions(
            credentials=identities.waypoint, enforcement=ExtAuthz(address=listener.address, timeout_seconds=2)
        )
        config = waypoint_config(options, tmp_path / "access.jsonl")
        _fail_open(config)
        async with Envoy("open", config, tmp_path) as waypoint:
            tunnel = Tunnel(
                credentials=identities.clients["frontend"],
                proxy=f"127.0.0.1:{waypoint.ports[CONNECT_TERMINATE]}",
                destination=VIP,
            )
            async with (
                HboneClient({"frontend": tunnel}, tmp_path) as client,
                httpx2.AsyncClient(timeout=20.0, trust_env=False) as http,
            ):
                url = client.url("frontend")
                unavailable = await http.get(url + "/orders")
                assert 503 == unavailable.status_code
                assert unavailable.headers["x-gatehouse-decision"]
                assert "snapshot" not in unavailable.text
                await empty.put(LOCAL_WAYPOINT, READERS, services=SERVICES)
                assert 403 == (await http.get(url + "/internal")).status_code
