"""Quarantine of a node and of a serial where the real Envoy sends the peer's certificate (`include_peer_certificate`).

Two certificates of one identity from two nodes, a gateway that asks for them, and a worker: one of the two is cut off, the
other goes on, and both come back with the lift.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.demo.envoy_parts import Credentials
from app.demo.node_agent import NodeAgent, WorkloadCertificate
from tests.support.gatehouse import Gatehouse
from tests.support.plain_gateway import LISTENER, gateway

pytestmark = pytest.mark.e2e

NODES = ("node-a", "node-b")
CART = "spiffe://cluster.local/ns/shop/sa/cart"
EDGE = "spiffe://cluster.local/ns/shop/sa/edge"
INVENTORY = {
    "nodes": [{"name": node} for node in NODES],
    "workloads": [
        {"namespace": "shop", "name": f"{account}-{node}", "serviceAccount": account, "node": node}
        for account in ("cart", "edge")
        for node in NODES
    ],
}
POLICY = [
    {
        "apiVersion": "gatehouse.dev/v1",
        "kind": "EnforcementPoint",
        "metadata": {"name": "edge", "namespace": "shop"},
        "spec": {"kind": "gateway", "caller": {"listener": "local"}},
    },
    {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "cart", "namespace": "shop"},
        "spec": {
            "action": "ALLOW",
            "rules": [{"from": [{"source": {"principals": ["cluster.local/ns/shop/sa/cart"]}}]}],
        },
    },
]


def _files(certificate: WorkloadCertificate, directory: Path) -> Credentials:
    directory.mkdir()
    files = Credentials(
        certificate=directory / "chain.pem", private_key=directory / "key.pem", trust_bundle=directory / "roots.pem"
    )
    files.certificate.write_bytes(certificate.chain_pem)
    files.private_key.write_bytes(certificate.key_pem)
    files.trust_bundle.write_bytes(certificate.roots_pem)
    return files


def _client(credentials: Credentials, port: int) -> httpx2.AsyncClient:
    """Presents the certificate; whom it talks to is not what is tested."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(credentials.trust_bundle)
    context.load_cert_chain(credentials.certificate, credentials.private_key)
    return httpx2.AsyncClient(base_url=f"https://127.0.0.1:{port}", verify=context, timeout=20.0, trust_env=False)


@dataclass
class Edge:
    """The running gateway, a client for each node's certificate of one identity, and who administers."""

    admin: httpx2.AsyncClient
    clients: dict[str, httpx2.AsyncClient]
    serials: dict[str, str]

    async def statuses(self) -> list[int]:
        return [(await self.clients[node].get("/")).status_code for node in NODES]

    async def quarantine(self, method: str, path: str = "", **given: Any) -> dict[str, Any]:
        answer = await self.admin.request(
            method, f"/v1/quarantines{path}", params={"waitSeconds": 20}, timeout=40.0, **given
        )
        receipt: dict[str, Any] = answer.raise_for_status().json()
        return receipt


@asynccontextmanager
async def _running_edge(directory: Path) -> AsyncIterator[Edge]:
    async with AsyncExitStack() as stack:
        gatehouse = await stack.enter_async_context(Gatehouse(directory / "gatehouse", workers=1))
        admin = await stack.enter_async_context(await gatehouse.admin())
        (await admin.put("/v1/inventory", json=INVENTORY)).raise_for_status()
        (await admin.post("/v1/apply", json=POLICY)).raise_for_status()
        roots = (await admin.get("/v1/trust-bundle.pem")).content
        held: dict[str, WorkloadCertificate] = {}
        for node in NODES:
            minted = (await admin.post("/v1/tokens/node", json={"node": node})).json()
            async with NodeAgent(gatehouse.addresses["ca"], roots, minted["token"]) as agent:
                held[node] = await agent.fetch(CART, timeout_seconds=20)
                own = await agent.fetch(EDGE, timeout_seconds=20)
        envoy = gateway(gatehouse.addresses["check"], directory / "envoy", serves=_files(own, directory / "edge"))
        await stack.enter_async_context(envoy)
        clients = {
            node: await stack.enter_async_context(_client(_files(one, directory / node), envoy.ports[LISTENER]))
            for node, one in held.items()
        }
        edge = Edge(admin, clients, {node: f"{one.leaf.serial_number:x}" for node, one in held.items()})
        async with asyncio.timeout(60):
            while await edge.statuses() != [200, 200]:
                await asyncio.sleep(0.1)
        yield edge


async def test_a_node_or_a_serial_is_cut_off_where_envoy_sends_the_certificate(tmp_path: Path) -> None:
    """As soon as the receipt says confirmed, and no other certificate of the same identity with it."""
    async with _running_edge(tmp_path) as edge:
        subjects = {"serial": edge.serials["node-a"], "node": "node-b"}
        seen = {}
        for kind, subject in subjects.items():
            receipt = await edge.quarantine("POST", json={"name": kind, "reason": "stolen", kind: subject})
            held = await edge.statuses()
            lifted = await edge.quarantine("DELETE", f"/{kind}")
            seen[kind] = (receipt["workers"]["notConfirmed"], held, lifted["state"], await edge.statuses())

        assert {
            "serial": ([], [403, 200], "lifted", [200, 200]),
            "node": ([], [200, 403], "lifted", [200, 200]),
        } == seen, json.dumps(seen)
