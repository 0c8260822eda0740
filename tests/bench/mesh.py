"""The mesh of the benchmarks: N policies over N/10 services, ten of which concern the service that is asked for.

Each policy lets one client GET one subtree. The request that is measured is allowed by the last of the ten, so both
Gatehouse and Envoy's own RBAC have to look at the others first.
"""

from __future__ import annotations

import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

PER_SERVICE = 10
NAMESPACE = "shop"
SERVICE_IP = "10.96.0.10"
SERVICE_PORT = 8080
DESTINATION = f"{SERVICE_IP}:{SERVICE_PORT}"
WAYPOINT = f"spiffe://cluster.local/ns/{NAMESPACE}/sa/waypoint"


def client_of(index: int) -> str:
    """The SPIFFE ID that policy `index` of a service lets in."""
    return f"spiffe://cluster.local/ns/{NAMESPACE}/sa/client-{index}"


CLIENT = client_of(PER_SERVICE - 1)
PATH = f"/api/{PER_SERVICE - 1}/orders?page=2"


def service_name(index: int) -> str:
    """The name of a service."""
    return f"service-{index}"


def policy(service: int, index: int) -> dict[str, Any]:
    """The `index`th policy of a service."""
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": f"{service_name(service)}-{index}", "namespace": NAMESPACE},
        "spec": {
            "targetRefs": [{"kind": "Service", "group": "", "name": service_name(service)}],
            "action": "ALLOW",
            "rules": [
                {
                    "from": [{"source": {"principals": [client_of(index).removeprefix("spiffe://")]}}],
                    "to": [{"operation": {"methods": ["GET"], "paths": [f"/api/{index}/*"]}}],
                }
            ],
        },
    }


def documents(count: int) -> list[dict[str, Any]]:
    """The mesh, the enforcement point and `count` policies."""
    point = {
        "apiVersion": "gatehouse.dev/v1",
        "kind": "EnforcementPoint",
        "metadata": {"name": "waypoint", "namespace": NAMESPACE},
        "spec": {"kind": "waypoint", "gateway": "waypoint", "caller": {"listener": "local"}},
    }
    policies = [policy(index // PER_SERVICE, index % PER_SERVICE) for index in range(count)]
    return [point, *policies]


def inventory(count: int) -> dict[str, Any]:
    """The services that `count` policies attach to; the first has the address that is asked for."""
    services = [
        {
            "namespace": NAMESPACE,
            "name": service_name(index),
            "addresses": [SERVICE_IP if index == 0 else f"10.97.{index // 250}.{index % 250 + 1}"],
            "ports": [SERVICE_PORT],
        }
        for index in range(max(1, count // PER_SERVICE))
    ]
    return {"nodes": [], "workloads": [], "services": services}


def native_rules() -> dict[str, Any]:
    """The ten policies of the first service as Envoy's RBAC, in the shape that istiod writes for a waypoint."""
    policies = {}
    for index in range(PER_SERVICE):
        principal = {"filter_state": {"key": "io.istio.peer_principal", "string_match": {"exact": client_of(index)}}}
        method = {"header": {"name": ":method", "string_match": {"exact": "GET"}}}
        path = {"url_path": {"path": {"prefix": f"/api/{index}/"}}}
        policies[f"ns[{NAMESPACE}]-policy[{service_name(0)}-{index}]-rule[0]"] = {
            "permissions": [
                {"and_rules": {"rules": [{"or_rules": {"rules": [method]}}, {"or_rules": {"rules": [path]}}]}}
            ],
            "principals": [{"and_ids": {"ids": [{"or_ids": {"ids": [principal]}}]}}],
        }
    return {"action": "ALLOW", "policies": policies}


class Tokens:
    """A token of an end user and the RequestAuthentication that verifies it at the service that is asked for."""

    ISSUER = "https://issuer.example"

    def __init__(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        claims = {"iss": self.ISSUER, "sub": "reader", "aud": "orders", "exp": int(time.time()) + 3_600}
        self.token: str = jwt.encode(claims, key, algorithm="ES256", headers={"kid": "bench"})
        public = {**json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key())), "kid": "bench", "use": "sig"}
        self.document: dict[str, Any] = {
            "apiVersion": "security.istio.io/v1",
            "kind": "RequestAuthentication",
            "metadata": {"name": "users", "namespace": NAMESPACE},
            "spec": {
                "targetRefs": [{"kind": "Service", "group": "", "name": service_name(0)}],
                "jwtRules": [{"issuer": self.ISSUER, "jwks": json.dumps({"keys": [public]})}],
            },
        }
