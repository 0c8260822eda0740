"""Which ALLOW policies may concern one target: they are alternatives, and are enforced in one place or not at all.

What stands behind a proxy is not known here, so this is generous: a Gateway and a Service of its namespace meet, a
Service whose namespace has no waypoint of its own meets every Gateway, and policies without target references meet
unless a label of their selectors differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from app.policy.attachment import ref_kind
from app.policy.compile import CompiledPolicy
from app.policy.enforcement_point import EnforcementPoint
from app.policy.mesh import MeshConfig
from app.policy.target import PointKind

_PAIRWISE = 1_000  # policies of one namespace whose selectors are compared; of more, all are taken to meet


class AllowNeighbours:
    """ALLOW policies that are handed out once each, to the first policy that may share a target with them."""

    def __init__(
        self, policies: Iterable[CompiledPolicy], points: Iterable[EnforcementPoint], mesh: MeshConfig
    ) -> None:
        waypoints = [point for point in points if point.kind is PointKind.WAYPOINT]
        self._waypoints = {(point.namespace, point.gateway) for point in waypoints}
        self._with_waypoint = {point.namespace for point in waypoints}
        self._mesh = mesh
        self._members: dict[str, dict[str, CompiledPolicy]] = {}
        self._left: set[str] = set()
        for policy in policies:
            self._left.add(policy.key)
            for group in self._groups(policy):
                self._members.setdefault(group, {})[policy.key] = policy

    def take(self, policy: CompiledPolicy) -> Iterator[CompiledPolicy]:
        """The policies that may share a target with this one and were not handed out before."""
        self._left.discard(policy.key)
        for group in self._reached(policy):
            members = self._members.get(group)
            if not members:
                continue
            compare = len(members) <= _PAIRWISE
            for key, other in sorted(members.items()):
                if key not in self._left:
                    del members[key]
                elif not compare or _may_select_one(policy, other):
                    del members[key]
                    self._left.discard(key)
                    yield other

    def _groups(self, policy: CompiledPolicy) -> Iterator[str]:
        """The groups that a policy is found in."""
        namespace = policy.namespace
        if not policy.spec.target_refs:
            yield from ("plain", f"plain/{namespace}")
        for ref in policy.spec.target_refs:
            match ref_kind(ref):
                case "Gateway":
                    yield from (f"Gateway/{namespace}/{ref.name}", "gateways", f"gateways/{namespace}")
                    if self._takes_selectors(namespace, ref.name):
                        yield from ("selected", f"selected/{namespace}")
                case "GatewayClass":
                    yield "classes"
                case "Service" | "ServiceEntry" as kind:
                    yield from (f"{kind}/{namespace}/{ref.name}", "services", f"services/{namespace}")
                    if namespace not in self._with_waypoint:
                        yield "services-anywhere"
                case _:  # attaches to nothing
                    pass

    def _reached(self, policy: CompiledPolicy) -> Iterator[str]:
        """The groups whose members it meets."""
        namespace, root = policy.namespace, self._mesh.root_namespace
        if not policy.spec.target_refs:
            yield from (
                ("plain", "selected")
                if namespace == root
                else (
                    f"plain/{namespace}",
                    f"plain/{root}",
                    f"selected/{namespace}",
                )
            )
        for ref in policy.spec.target_refs:
            match ref_kind(ref):
                case "Gateway":
                    yield from (f"Gateway/{namespace}/{ref.name}", f"services/{namespace}")
                    yield from ("services-anywhere", "classes")
                    if self._takes_selectors(namespace, ref.name):
                        yield from (f"plain/{namespace}", f"plain/{root}")
                case "GatewayClass":
                    yield from ("gateways", "services", "classes")
                case "Service" | "ServiceEntry" as kind:
                    yield from (f"{kind}/{namespace}/{ref.name}", "classes")
                    yield f"gateways/{namespace}" if namespace in self._with_waypoint else "gateways"
                case _:
                    pass

    def _takes_selectors(self, namespace: str, gateway: str) -> bool:
        """Whether policies without target references may attach to a Gateway: they never do to a waypoint."""
        return self._mesh.selector_based_gateway_policy and (namespace, gateway) not in self._waypoints


def _may_select_one(first: CompiledPolicy, second: CompiledPolicy) -> bool:
    """Whether a workload may carry the labels of both selectors."""
    if first.spec.target_refs or second.spec.target_refs:
        return True
    ours, theirs = first.spec.selector or {}, second.spec.selector or {}
    return all(theirs.get(label, value) == value for label, value in ours.items())
