"""Which policies concern a target: by namespace, by labels, or by name.

Every policy has attach keys under which the rule table keeps it, and every target the keys under which its policies are
found; what is found by key is then compared in full.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from app.policy.authorization_policy import TargetRef
from app.policy.mesh import MeshConfig
from app.policy.target import PointKind, Target

GATEWAY_GROUP = "gateway.networking.k8s.io"
SERVICE_ENTRY_GROUP = "networking.istio.io"
GATEWAY_NAME_LABEL = "gateway.networking.k8s.io/gateway-name"
WAYPOINT_CLASS = "istio-waypoint"

_REGISTRY_KINDS = {"Kubernetes": "Service", "External": "ServiceEntry"}


class Attachable(Protocol):
    """What attaches to targets: by references, by the labels of a selector, or in its whole namespace."""

    @property
    def selector(self) -> Mapping[str, str] | None:
        """The labels that a target must have; None when there is no selector, an empty one selects everything."""
        ...

    @property
    def target_refs(self) -> tuple[TargetRef, ...]:
        """What it attaches to by name."""
        ...


def ref_kind(ref: TargetRef) -> str | None:
    """What a targetRef names, None when group and kind are not a pair that policies attach to."""
    match ref.kind, ref.group:
        case "Gateway" | "GatewayClass", group if group == GATEWAY_GROUP:
            return ref.kind
        case "Service", "" | "core":
            return ref.kind
        case "ServiceEntry", group if group == SERVICE_ENTRY_GROUP:
            return ref.kind
        case _:
            return None


def policy_keys(namespace: str, spec: Attachable) -> tuple[str, ...]:
    """The attach keys of a policy. With target references, a selector beside them is not looked at.

    A reference with a namespace is refused where documents come in; Istio, where it is stored anyway, looks at it for
    gateways only, and so do we.
    """
    if spec.target_refs:
        return tuple(
            dict.fromkeys(
                f"{ref_kind(ref)}/{namespace}/{ref.name}"
                for ref in spec.target_refs
                if ref_kind(ref) is not None and (ref_kind(ref) != "Gateway" or ref.namespace in ("", namespace))
            )
        )
    if spec.selector:
        label, value = min(spec.selector.items())
        return (f"label/{namespace}/{label}={value}",)
    return (f"namespace/{namespace}",)


def target_keys(target: Target, mesh: MeshConfig) -> tuple[str, ...]:
    """The attach keys under which the policies of a target are found."""
    return tuple(dict.fromkeys(_target_keys(target, mesh)))


def _target_keys(target: Target, mesh: MeshConfig) -> Iterator[str]:
    gateway = target.gateway_name or target.label_map.get(GATEWAY_NAME_LABEL, "")
    waypoint = target.kind is PointKind.WAYPOINT
    if target.kind is not PointKind.ZTUNNEL and (gateway or waypoint):
        yield f"Gateway/{target.namespace}/{gateway}"
        if waypoint:
            yield f"GatewayClass/{mesh.root_namespace}/{WAYPOINT_CLASS}"
            for service in target.services:
                kind = _REGISTRY_KINDS.get(service.registry)
                if kind is not None:
                    yield f"{kind}/{service.namespace}/{service.name}"
        if waypoint or not mesh.selector_based_gateway_policy:
            return
    for namespace in (mesh.root_namespace, target.namespace):
        yield f"namespace/{namespace}"
        for label, value in target.labels:
            yield f"label/{namespace}/{label}={value}"


def selects(spec: Attachable, labels: Mapping[str, str]) -> bool:
    """Whether a policy found by key really attaches: all labels of its selector are the target's."""
    if spec.target_refs or not spec.selector:
        return True
    return all(labels.get(label) == value for label, value in spec.selector.items())
