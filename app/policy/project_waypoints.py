"""The native policies that a waypoint needs beside the projected ones.

*Only from the waypoint* (ztunnel enforces it): whoever reaches the workloads without passing the waypoint is denied, so
that no request goes round the policies of the waypoint. *Ask Gatehouse*: the one CUSTOM policy by which the waypoint's
requests come to us.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from app.policy.attachment import GATEWAY_GROUP
from app.policy.canonical import sha256_hex
from app.policy.document import ENFORCEMENT_POINT, ISTIO_VERSIONS
from app.policy.enforcement_point import EnforcementPoint
from app.policy.identity_matchers import SCHEME
from app.policy.mesh import MeshConfig
from app.policy.policy_view import PolicyView
from app.policy.target import PointKind

MAX_NAME_CHARS = 253


def waypoints_of(view: PolicyView) -> list[EnforcementPoint]:
    """The registered waypoints, in the order of their names."""
    points: Iterator[EnforcementPoint] = iter(view.values.of(ENFORCEMENT_POINT).values())
    found = [point for point in points if point.kind is PointKind.WAYPOINT]
    return sorted(found, key=lambda point: (point.namespace, point.gateway, point.name))


def waypoint_principal(point: EnforcementPoint, mesh: MeshConfig) -> str:
    """Who a waypoint is, without `spiffe://`: its SPIFFE ID, or the account that Istio gives a waypoint of its name."""
    if point.spiffe_id:
        return point.spiffe_id.removeprefix(SCHEME)
    return f"{mesh.trust_domain}/ns/{point.namespace}/sa/{point.gateway}"


def only_from_waypoints(view: PolicyView) -> Iterator[dict[str, Any]]:
    """One ALLOW policy for each namespace with waypoints, or for each set of workloads behind one."""
    principals: dict[tuple[str, tuple[tuple[str, str], ...]], list[str]] = {}
    # One policy for all waypoints of a namespace: ALLOW policies are alternatives, so each may name all of them.
    for point in waypoints_of(view):
        for labels in point.workloads or ((),):
            found = principals.setdefault((point.namespace, labels), [])
            principal = waypoint_principal(point, view.mesh)
            if principal not in found:
                found.append(principal)
    for (namespace, labels), wanted in sorted(principals.items()):
        spec: dict[str, Any] = {"selector": {"matchLabels": dict(labels)}} if labels else {}
        spec |= {"action": "ALLOW", "rules": [{"from": [{"source": {"principals": sorted(wanted)}}]}]}
        suffix = "-".join(f"{label}-{value}" for label, value in labels)
        yield _policy(namespace, _name("gatehouse-only-from-waypoint", suffix), spec)


def ask_policies(view: PolicyView) -> Iterator[dict[str, Any]]:
    """One CUSTOM policy for each waypoint, which sends every request to us."""
    provider = view.mesh.own_providers[0] if view.mesh.own_providers else "gatehouse"
    seen: set[tuple[str, str]] = set()
    for point in waypoints_of(view):
        if (point.namespace, point.gateway) in seen:
            continue
        seen.add((point.namespace, point.gateway))
        spec = {
            "targetRefs": [{"group": GATEWAY_GROUP, "kind": "Gateway", "name": point.gateway}],
            "action": "CUSTOM",
            "provider": {"name": provider},
            "rules": [{}],
        }
        yield _policy(point.namespace, _name("gatehouse-ask", point.gateway), spec)


def _policy(namespace: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": ISTIO_VERSIONS[0],
        "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


def _name(prefix: str, suffix: str) -> str:
    """A Kubernetes name; what could not stand in one, or would be too long, becomes a short hash."""
    plain = "".join(char if char.isascii() and (char.isalnum() or char == "-") else "-" for char in suffix.lower())
    if not suffix:
        return prefix
    if plain == suffix and plain[-1] != "-" and len(prefix) + 1 + len(plain) <= MAX_NAME_CHARS:
        return f"{prefix}-{plain}"
    return f"{prefix}-{sha256_hex(suffix.encode())[:12]}"
