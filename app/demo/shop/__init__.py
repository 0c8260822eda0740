"""The small mesh of the demo: names, addresses and the files that a user would apply."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent
INVENTORY_FILE = _HERE / "inventory.yaml"
POLICIES_FILE = _HERE / "policies.yaml"

NODE = "node-1"
NAMESPACE = "shop"
SERVICE = "orders"
SERVICE_ADDRESS = "10.96.0.10:8080"
SERVICE_HOST = "orders.shop.svc.cluster.local"
WAYPOINT = "waypoint"
CLIENTS = ("frontend", "reports")
ELSEWHERE = "spiffe://cluster.local/ns/bank/sa/vault"  # runs on node-2
READERS_POLICY = "orders-readers"


def identity(account: str) -> str:
    """The SPIFFE ID of a service account of the shop."""
    return f"spiffe://cluster.local/ns/{NAMESPACE}/sa/{account}"
