"""Policies, tables and requests for tests of the policy engine, in few words."""

from __future__ import annotations

from typing import Any

from app.limits import PolicyLimits
from app.policy.compile import CompiledPolicy, compile_policy
from app.policy.decision import Decision
from app.policy.document import Document, parse_document
from app.policy.evaluate import decide
from app.policy.mesh import MeshConfig
from app.policy.request import Request
from app.policy.rule_table import RuleTable
from app.policy.target import PointKind, ServiceRef, Target

LIMITS = PolicyLimits()
ISTIO = MeshConfig(hardened=False)
HARDENED = MeshConfig(hardened=True)
PEER = "spiffe://cluster.local/ns/shop/sa/web"
SIDECAR = Target(PointKind.SIDECAR, "shop", labels=(("app", "orders"),))
WAYPOINT = Target(
    PointKind.WAYPOINT,
    "shop",
    services=(ServiceRef("shop", "orders"),),
    gateway_name="waypoint",
    gateway_class="istio-waypoint",
)


def policy(
    *rules: dict[str, Any],
    action: str = "ALLOW",
    name: str = "p",
    namespace: str = "shop",
    annotations: dict[str, str] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    """An AuthorizationPolicy document."""
    metadata: dict[str, Any] = {"name": name, "namespace": namespace}
    if annotations:
        metadata["annotations"] = annotations
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": metadata,
        "spec": {"action": action, **({"rules": list(rules)} if rules else {}), **spec},
    }


def to(**operation: Any) -> dict[str, Any]:
    """A rule that asks for one operation."""
    return {"to": [{"operation": operation}]}


def source(**fields: Any) -> dict[str, Any]:
    """A rule that asks for one source."""
    return {"from": [{"source": fields}]}


def when(key: str, *values: str, not_values: tuple[str, ...] = ()) -> dict[str, Any]:
    """A rule that asks for one condition."""
    condition: dict[str, Any] = {"key": key}
    if values:
        condition["values"] = list(values)
    if not_values:
        condition["notValues"] = list(not_values)
    return {"when": [condition]}


def document(value: dict[str, Any]) -> Document:
    """A parsed document."""
    return parse_document(value, LIMITS)


def compiled(values: list[dict[str, Any]], mesh: MeshConfig = HARDENED) -> dict[str, CompiledPolicy]:
    """Compiled policies by key."""
    documents = [document(value) for value in values]
    return {parsed.key: compile_policy(parsed, mesh) for parsed in documents}


def table(*values: dict[str, Any], mesh: MeshConfig = HARDENED) -> RuleTable:
    """A rule table of these policies."""
    return RuleTable.empty(mesh).replaced(compiled(list(values), mesh), ())


def request(path: str = "/", method: str = "GET", principal: str = PEER, **fields: Any) -> Request:
    """An HTTP request."""
    fields.setdefault("host", "orders.shop.svc.cluster.local")
    return Request(path=path, method=method, principal=principal, source_ip="10.1.2.3", port=8080, **fields)


def ask(
    rules: RuleTable,
    path: str = "/",
    *,
    target: Target = SIDECAR,
    answers: dict[str, bool] | None = None,
    **fields: Any,
) -> Decision:
    """The decision for a request to `path`."""
    return decide(rules, target, request(path, **fields), answers or {})
