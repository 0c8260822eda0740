"""Gatehouse as a process that takes tokens and placement from an API server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx2
import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from app.demo.node_agent import NodeAgent
from tests.support.gatehouse import Gatehouse
from tests.support.kube_api import OUR_TOKEN, accepted, pod, running_kube_api

CART = "spiffe://cluster.local/ns/shop/sa/cart"


def a_token() -> str:
    """A token that only the API server can judge."""
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    return jwt.encode({"iss": "https://cluster.example", "aud": ["istio-ca"]}, key, algorithm="RS256")


async def test_a_node_agent_gets_what_the_cluster_says_it_may_have(tmp_path: Path) -> None:
    """Ready with the first list; a certificate by TokenReview; the sources and their figures can be seen."""
    async with running_kube_api(tmp_path / "cluster") as api:
        (tmp_path / "token").write_text(OUR_TOKEN)
        access = {"server": api.url, "ca_file": str(api.ca_file), "token_file": str(tmp_path / "token")}
        api.put(pod("ztunnel-1", "ztunnel", namespace="istio-system", uid="uid-1"))
        api.put(pod("cart-1"))
        token = a_token()
        api.reviews[token] = accepted(pod_name="ztunnel-1", pod_uid="uid-1", node_name="node-a")
        clusters = [{"name": "Kubernetes", "kubernetes": access}]
        async with Gatehouse(tmp_path, role="authority", clusters=clusters) as gatehouse:
            admin = await gatehouse.admin()
            try:
                bundle = (await admin.get("/v1/trust-bundle.pem")).content
                async with NodeAgent(gatehouse.addresses["ca"], bundle, token) as agent:
                    issued = await agent.fetch(CART, timeout_seconds=20)
                sources = (await admin.get("/v1/inventory/sources")).json()["items"]
                explained = await _explain(admin)
            finally:
                await admin.aclose()
            usable = 'gatehouse_placement_usable{cluster="Kubernetes",source="kubernetes"} 1.0'
            async with asyncio.timeout(20):
                while usable not in (metrics := (await gatehouse.get("/metrics")).text):
                    await asyncio.sleep(0.05)

        assert CART == issued.identity
        assert [("Kubernetes", "kubernetes", True, 2)] == [
            (item["cluster"], item["kind"], item["usable"], item["workloads"]) for item in sources
        ]
        assert ("granted", "kubernetes") == explained
        assert 'gatehouse_token_reviews_total{cluster="Kubernetes",outcome="accepted"} 1.0' in metrics


async def _explain(admin: httpx2.AsyncClient) -> tuple[str, str]:
    answer = (await admin.get("/v1/ca/explain", params={"node": "node-a", "identity": CART})).json()
    return answer["outcome"], answer["source"]["kind"]
