"""Ports 9193 and 9192 of a whole Gatehouse, asked with certificates that Gatehouse issued to both ends."""

from __future__ import annotations

import asyncio
import io
import ssl
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.demo import shop
from app.demo.certificates import get_certificates
from app.demo.narrator import Narrator
from app.demo.service import GatehouseService
from app.demo.waypoint import Credentials, ExtAuthz, HboneClient, Tunnel, Waypoint, WaypointOptions
from tests.support.decisions import READERS
from tests.support.snapshots import mesh, point

pytestmark = pytest.mark.e2e

START_SECONDS = 60.0


async def _ask(http: httpx2.AsyncClient, client: HboneClient, who: str, waypoint: Waypoint) -> tuple[int, Any]:
    before = len(waypoint.requests())
    response = await http.get(client.url(who) + "/orders", headers={"host": shop.SERVICE_HOST})
    row = (await waypoint.wait_for_requests(before + 1))[before]
    return response.status_code, (row["decision"] or {}).get("reason")


async def _ask_over_http(gatehouse: GatehouseService, caller: Credentials, who: str) -> int:
    """As a proxy that asks on 9192 about a request to the service, with its certificate."""
    tls = ssl.create_default_context(cafile=str(caller.trust_bundle))
    tls.check_hostname = False  # the worker's certificate has a SPIFFE ID and no name
    tls.load_cert_chain(caller.certificate, caller.private_key)
    url = f"https://{gatehouse.address('check_http')}/envoy/orders"
    async with httpx2.AsyncClient(verify=tls, trust_env=False, timeout=20.0) as http:
        asked = await http.get(url, headers={"host": shop.SERVICE_HOST, "x-client": f"URI={who}"})
    return asked.status_code


async def test_a_waypoint_asks_over_mutual_tls(tmp_path: Path) -> None:
    """By its registered SPIFFE ID it gets decisions; a workload with a certificate of the same mesh gets none."""
    caller = {"spiffeId": shop.identity(shop.WAYPOINT)}
    registered = point("waypoint", gateway="waypoint", serviceFromHost=True, caller=caller)
    over_http = {"check": {"http": {"mutual_tls": True, "identity_header": "x-client"}}}
    async with GatehouseService(tmp_path / "gatehouse", workers=1, settings=over_http) as gatehouse:
        await gatehouse.command("inventory", "apply", str(shop.INVENTORY_FILE))
        await gatehouse.apply([mesh(trustDomain="cluster.local"), registered, READERS])
        await gatehouse.wait_until_served()
        identities = await get_certificates(Narrator(io.StringIO()), gatehouse, tmp_path / "identities")
        address = gatehouse.address("check_mtls")

        def options(caller: str) -> WaypointOptions:
            authz = ExtAuthz(address=address, credentials=identities[caller], timeout_seconds=2)
            return WaypointOptions(credentials=identities[shop.WAYPOINT], enforcement=authz)

        async with (
            Waypoint(options(shop.WAYPOINT), tmp_path) as waypoint,
            Waypoint(options("frontend"), tmp_path, name="pretender") as pretender,
            httpx2.AsyncClient(timeout=20.0, trust_env=False) as http,
        ):
            tunnels = {
                f"{who}-{name}": Tunnel(
                    credentials=identities[who], proxy=proxy.address, destination=shop.SERVICE_ADDRESS
                )
                for who in shop.CLIENTS
                for name, proxy in (("waypoint", waypoint), ("pretender", pretender))
            }
            async with HboneClient(tunnels, tmp_path) as client:
                async with asyncio.timeout(START_SECONDS):  # the worker opens the port when it has its certificate
                    while (await _ask(http, client, "frontend-waypoint", waypoint))[1] is None:
                        await asyncio.sleep(0.1)
                assert (200, "ALLOW_RULE") == await _ask(http, client, "frontend-waypoint", waypoint)
                assert (403, "NO_RULE_MATCHED") == await _ask(http, client, "reports-waypoint", waypoint)
                assert (403, "CALLER_UNKNOWN") == await _ask(http, client, "frontend-pretender", pretender)
        assert 403 == await _ask_over_http(gatehouse, identities[shop.WAYPOINT], shop.identity("reports"))
        assert 200 == await _ask_over_http(gatehouse, identities[shop.WAYPOINT], shop.identity("frontend"))
        assert 403 == await _ask_over_http(gatehouse, identities["frontend"], shop.identity("frontend"))
