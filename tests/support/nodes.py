"""Nodes of a cluster that exist on paper: their pods in the inventory, their ztunnels' tokens, and connections of theirs.

Tokens are signed here, by a token issuer that Gatehouse is configured to believe, so that any number of nodes can be
had without asking Gatehouse for each.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx2
import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from app.demo.node_agent import NodeAgent
from tests.support.gatehouse import Gatehouse
from tests.support.jwks import jwk, key_set

ISSUER = "https://kubernetes.example"
TOKEN_SECONDS = 24 * 3_600
# So that only what a test is about holds the clients back.
UNHURRIED = {
    "node_rate_per_second": 1e6,
    "node_burst": 1_000_000,
    "identity_rate_per_second": 1e6,
    "identity_burst": 1_000_000,
    "early_renewals": 1_000_000,
}


class Nodes:
    """`count` nodes with one ztunnel and `identities` workloads each; every workload has an identity of its own."""

    def __init__(self, directory: Path, *, count: int, identities: int) -> None:
        self.count = count
        self._identities = identities
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._jwks = directory / "cluster-jwks.json"
        self._tokens: dict[int, str] = {}
        directory.mkdir(parents=True, exist_ok=True)
        self._jwks.write_bytes(key_set(jwk(self._key, kid="k1", use="sig", alg="ES256")))

    @property
    def settings(self) -> dict[str, Any]:
        """What Gatehouse must be started with."""
        issuer = {"name": "cluster", "issuer": ISSUER, "audiences": ["istio-ca"], "jwks_file": str(self._jwks)}
        return {"tokens": {"issuers": [issuer]}, "limits": {"certificate": UNHURRIED}}

    def identities(self, node: int) -> list[str]:
        """The SPIFFE IDs of a node's workloads."""
        return [f"spiffe://cluster.local/ns/shop/sa/app-{node}-{number}" for number in range(self._identities)]

    def inventory(self) -> dict[str, Any]:
        """All pods, as the API takes them."""
        pods = [
            {"namespace": "istio-system", "name": f"ztunnel-{node}", "serviceAccount": "ztunnel", "node": f"node-{node}", "uid": f"z-{node}"}
            for node in range(self.count)
        ]  # fmt: skip
        for node in range(self.count):
            pods += [
                {"namespace": "shop", "name": f"app-{node}-{n}", "serviceAccount": f"app-{node}-{n}", "node": f"node-{node}", "uid": f"a-{node}-{n}"}
                for n in range(self._identities)
            ]  # fmt: skip
        return {"workloads": pods}

    def token(self, node: int) -> str:
        """The bound token of a node's ztunnel."""
        if node not in self._tokens:
            now = int(time.time())
            claims = {
                "iss": ISSUER,
                "aud": ["istio-ca"],
                "sub": "system:serviceaccount:istio-system:ztunnel",
                "iat": now,
                "nbf": now,
                "exp": now + TOKEN_SECONDS,
                "jti": f"token-{node}",
                "kubernetes.io": {
                    "namespace": "istio-system",
                    "serviceaccount": {"name": "ztunnel", "uid": "sa-uid"},
                    "pod": {"name": f"ztunnel-{node}", "uid": f"z-{node}"},
                    "node": {"name": f"node-{node}", "uid": f"n-{node}"},
                },
            }
            self._tokens[node] = jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": "k1"})
        return self._tokens[node]

    def agent(self, address: str, roots_pem: bytes, node: int) -> NodeAgent:
        """A connection of a node's ztunnel."""
        return NodeAgent(address, roots_pem, self.token(node))

    async def introduce(self, gatehouse: Gatehouse) -> bytes:
        """Put the inventory; returns the roots to trust."""
        async with await gatehouse.admin() as client:
            answer = await client.put("/v1/inventory", json=self.inventory(), timeout=60.0)
            assert answer.status_code == 200, answer.text
            return await roots_of(client)


async def roots_of(client: httpx2.AsyncClient) -> bytes:
    """The roots that Gatehouse serves."""
    answer = await client.get("/v1/trust-bundle.pem")
    assert answer.status_code == 200, answer.text
    return answer.content
