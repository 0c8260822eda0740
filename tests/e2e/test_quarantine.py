"""Quarantine in a whole Gatehouse: the real Envoy at a worker of this host and at one of another, and a node agent."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest
from cryptography import x509

from app.demo import shop
from app.demo.certificates import get_certificates
from app.demo.narrator import Narrator
from app.demo.node_agent import CertificateRefused, NodeAgent
from app.demo.service import GatehouseService
from app.demo.waypoint import Credentials, ExtAuthz, HboneClient, Tunnel, Waypoint, WaypointOptions
from tests.support.decisions import LOCAL_WAYPOINT, READERS
from tests.support.gatehouse import Gatehouse

pytestmark = pytest.mark.e2e

LOCAL_SECONDS, REMOTE_SECONDS = 1.0, 3.0
START_SECONDS = 60.0


@dataclass
class Shop:
    """The running whole: one waypoint asks this host's worker, one asks another host's."""

    gatehouse: GatehouseService
    client: HboneClient
    waypoints: dict[str, Waypoint]
    http: httpx2.AsyncClient
    crl_file: Path

    async def ask(self, where: str, who: str = "frontend") -> tuple[int, str]:
        """A request, and why it was decided so."""
        waypoint = self.waypoints[where]
        before = len(waypoint.requests())
        url = self.client.url(f"{who}-{where}") + "/orders"
        response = await self.http.get(url, headers={"host": shop.SERVICE_HOST})
        row = (await waypoint.wait_for_requests(before + 1))[before]
        return response.status_code, (row["decision"] or {}).get("reason", "")

    async def until(self, where: str, reason: str, within: float) -> float:
        """Until a request is decided so; seconds it took."""
        started = time.monotonic()
        async with asyncio.timeout(within):
            while (await self.ask(where))[1] != reason:
                await asyncio.sleep(0.02)
        return time.monotonic() - started

    async def quarantine(self, method: str, path: str = "", **given: Any) -> dict[str, Any]:
        """A call of `/v1/quarantines`."""
        answer = await self.gatehouse.rest(method, f"/v1/quarantines{path}", timeout=40.0, **given)
        receipt: dict[str, Any] = answer.raise_for_status().json()
        return receipt


@contextlib.asynccontextmanager
async def _remote_worker(gatehouse: GatehouseService, directory: Path) -> AsyncIterator[str]:
    """A decision replica; the address of its Check listener."""
    made = (await gatehouse.rest("POST", "/v1/tokens", json={"name": "edge", "role": "worker"})).json()
    key = (await gatehouse.status())["snapshotPublicKey"]
    link = {"url": f"http://{gatehouse.address('link')}", "token": made["secret"], "public_key": key}
    async with Gatehouse(directory, role="decision", workers=1, link=link) as replica:
        yield replica.addresses["check"]


def _waypoint(identities: dict[str, Credentials], address: str, directory: Path, name: str) -> Waypoint:
    authz = ExtAuthz(address=address, timeout_seconds=2)
    return Waypoint(
        WaypointOptions(credentials=identities[shop.WAYPOINT], enforcement=authz), directory, name=f"waypoint-{name}"
    )


@contextlib.asynccontextmanager
async def _running_shop(directory: Path) -> AsyncIterator[Shop]:
    crl_file = directory / "ca-crl.pem"
    settings = {"certificates": {"crl_file": str(crl_file)}}
    async with contextlib.AsyncExitStack() as stack:
        gatehouse = await stack.enter_async_context(
            GatehouseService(directory / "gatehouse", workers=1, settings=settings)
        )
        await gatehouse.command("inventory", "apply", str(shop.INVENTORY_FILE))
        await gatehouse.apply([LOCAL_WAYPOINT, READERS])
        identities = await get_certificates(Narrator(io.StringIO()), gatehouse, directory / "identities")
        remote = await stack.enter_async_context(_remote_worker(gatehouse, directory / "replica"))
        await gatehouse.wait_until_served()
        waypoints = {
            name: await stack.enter_async_context(_waypoint(identities, address, directory, name))
            for name, address in (("local", gatehouse.address("check")), ("remote", remote))
        }
        tunnels = {
            f"{who}-{name}": Tunnel(credentials=identities[who], proxy=proxy.address, destination=shop.SERVICE_ADDRESS)
            for who in shop.CLIENTS
            for name, proxy in waypoints.items()
        }
        client = await stack.enter_async_context(HboneClient(tunnels, directory))
        http = await stack.enter_async_context(httpx2.AsyncClient(timeout=20.0, trust_env=False))
        yield Shop(gatehouse, client, waypoints, http, crl_file)


async def test_who_is_in_quarantine_passes_no_waypoint_and_gets_no_certificate_until_it_is_lifted(
    tmp_path: Path,
) -> None:
    """Once the receipt says confirmed, the next request is denied: here and on the other host. Others are untouched."""
    async with _running_shop(tmp_path) as running:
        minted = json.loads((await running.gatehouse.command("token", "node", shop.NODE, "-o", "json")).output)
        roots = (await running.gatehouse.rest("GET", "/v1/trust-bundle.pem")).content
        for where in running.waypoints:
            await running.until(where, "ALLOW_RULE", START_SECONDS)

        posted = time.monotonic()
        watching = {
            where: asyncio.create_task(running.until(where, "QUARANTINED", 30.0)) for where in running.waypoints
        }
        body = {"name": "q", "reason": "key seen in a paste", "identity": shop.identity("frontend")}
        receipt = await running.quarantine("POST", json=body, params={"waitSeconds": 20})
        # Rows of the access log are told apart by their order, so one asks after the other.
        seconds = {where: await task for where, task in watching.items()}
        denied = {where: await running.ask(where) for where in running.waypoints}
        others = {where: await running.ask(where, "reports") for where in running.waypoints}
        took = time.monotonic() - posted

        assert 2 == len(receipt["workers"]["confirmed"]), receipt
        assert [] == receipt["workers"]["notConfirmed"]
        assert {"local": (403, "QUARANTINED"), "remote": (403, "QUARANTINED")} == denied
        assert {"local": (403, "NO_RULE_MATCHED"), "remote": (403, "NO_RULE_MATCHED")} == others
        assert seconds["local"] < LOCAL_SECONDS, (seconds, took)
        assert seconds["remote"] < REMOTE_SECONDS, (seconds, took)

        async with NodeAgent(running.gatehouse.address("ca"), roots, minted["token"]) as agent:
            with pytest.raises(CertificateRefused) as refused:
                await agent.fetch(shop.identity("frontend"), timeout_seconds=10.0)
            explained = json.loads(
                (await running.gatehouse.command("ca", "explain", refused.value.request_id, "-o", "json")).output
            )
            assert grpc.StatusCode.UNAUTHENTICATED is refused.value.code
            assert "quarantine" not in refused.value.message
            assert "quarantined" in explained["reason"]
            (crl,) = receipt["crls"]
            revoked = [
                len(x509.load_pem_x509_crl(f"{pem}-----END X509 CRL-----\n".encode()))
                for pem in running.crl_file.read_text().split("-----END X509 CRL-----\n")[:-1]
            ]
            assert [0, receipt["certificates"]["count"]] == sorted(revoked)
            assert crl["revoked"] == receipt["certificates"]["count"] > 0

            lifted = await running.quarantine("DELETE", "/q", params={"waitSeconds": 20})
            allowed = {where: await running.ask(where) for where in running.waypoints}
            assert "lifted" == lifted["state"]
            assert {"local": (200, "ALLOW_RULE"), "remote": (200, "ALLOW_RULE")} == allowed
            assert (await agent.fetch(shop.identity("frontend"), timeout_seconds=10.0)).leaf.serial_number > 0

        again = await running.quarantine("POST", json={**body, "name": "again"}, params={"waitSeconds": 20})
        denied = {where: await running.ask(where) for where in running.waypoints}
        assert [] == again["workers"]["notConfirmed"]
        assert {"local": (403, "QUARANTINED"), "remote": (403, "QUARANTINED")} == denied
