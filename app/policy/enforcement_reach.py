"""Which registered proxies enforce a policy, and whether their requests come to us."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from app.policy.attachment import WAYPOINT_CLASS, ref_kind, selects
from app.policy.authorization_policy import Action, TargetRef
from app.policy.compile import CompiledPolicy
from app.policy.document import ENFORCEMENT_POINT
from app.policy.enforcement_point import EnforcementPoint, ReachedBy
from app.policy.policy_view import PolicyView
from app.policy.target import PointKind


class Reach(Enum):
    """Whether what a policy speaks of comes to us."""

    NO_POINT = "no point"  # it attaches at no registered proxy
    NOT_SENT = "not sent"  # it does, and no CUSTOM policy sends the requests here
    PARTLY = "partly"  # only some of the requests are sent
    WHOLE = "whole"


@dataclass(frozen=True, slots=True)
class Attachment:
    """One way in which a policy attaches: by a target reference, or by selector and namespace (`ref` None)."""

    ref: TargetRef | None
    reach: Reach
    point: str = ""  # a proxy that it attaches at, <namespace>/<name>


class EnforcementReach:
    """The proxies of a set, and the CUSTOM policies that send their requests to us."""

    def __init__(self, view: PolicyView, *, waypoints_ask: bool = False) -> None:
        """`waypoints_ask` takes it that every waypoint has a CUSTOM policy that sends all its requests here."""
        self._mesh = view.mesh
        self._waypoints_ask = waypoints_ask
        points: Iterable[EnforcementPoint] = view.values.of(ENFORCEMENT_POINT).values()
        self._points = sorted(points, key=lambda point: (point.namespace, point.name))
        self._waypoints = [point for point in self._points if point.kind is PointKind.WAYPOINT]
        self._waypoints_in: dict[str, list[EnforcementPoint]] = {}
        for point in self._waypoints:
            self._waypoints_in.setdefault(point.namespace, []).append(point)
        self._by_gateway: dict[tuple[str, str], list[EnforcementPoint]] = {}
        for point in self._points:
            if point.gateway and point.kind in (PointKind.WAYPOINT, PointKind.GATEWAY):
                self._by_gateway.setdefault((point.namespace, point.gateway), []).append(point)
        customs = [policy for policy in view.table.policies() if self._is_own(policy)]
        self._sent_points: dict[tuple[str, str], bool] = {}  # by name: whether every request of it is sent
        self._sent_services: dict[tuple[str, str, str], bool] = {}
        for policy in sorted(customs, key=lambda policy: policy.key):
            self._note(policy)

    def __len__(self) -> int:
        return len(self._points)

    def attachments(self, policy: CompiledPolicy) -> Iterator[Attachment]:
        """How far each way in which a policy attaches comes to us."""
        for ref in policy.spec.target_refs or (None,):
            points = self._points_of(policy, ref)
            if not points:
                yield Attachment(ref, Reach.NO_POINT)
                continue
            reaches = [(self._reach(policy.namespace, ref, point), point) for point in points]
            # Of several proxies that may be the one, the best is taken: which one it is, is not known here.
            reach, point = max(reaches, key=lambda found: _ORDER.index(found[0]))
            yield Attachment(ref, reach, f"{point.namespace}/{point.name}")

    def _is_own(self, policy: CompiledPolicy) -> bool:
        return policy.action is Action.CUSTOM and policy.spec.provider in self._mesh.own_providers

    def _note(self, policy: CompiledPolicy) -> None:
        whole = any(not (rule.sources or rule.operations or rule.conditions) for rule in policy.spec.rules)
        for ref in policy.spec.target_refs or (None,):
            if ref is not None and ref_kind(ref) in ("Service", "ServiceEntry"):
                key = (str(ref_kind(ref)), policy.namespace, ref.name)
                self._sent_services[key] = self._sent_services.get(key, False) or whole
                continue
            for point in self._points_of(policy, ref):
                name = (point.namespace, point.name)
                self._sent_points[name] = self._sent_points.get(name, False) or whole

    def _points_of(self, policy: CompiledPolicy, ref: TargetRef | None) -> list[EnforcementPoint]:
        namespace, root = policy.namespace, self._mesh.root_namespace
        if ref is None:
            return [point for point in self._points if self._selects(policy, point)]
        match ref_kind(ref):
            case "Gateway":
                return self._by_gateway.get((namespace, ref.name), [])
            case "GatewayClass":
                return self._waypoints if namespace == root and ref.name == WAYPOINT_CLASS else []
            case "Service" | "ServiceEntry":
                return self._waypoints_in.get(namespace) or self._waypoints
            case _:
                return []

    def _selects(self, policy: CompiledPolicy, point: EnforcementPoint) -> bool:
        if point.kind is PointKind.WAYPOINT or policy.namespace not in (point.namespace, self._mesh.root_namespace):
            return False
        if point.kind is PointKind.GATEWAY and point.gateway and not self._mesh.selector_based_gateway_policy:
            return False
        return selects(policy.spec, dict(point.labels))

    def _reach(self, namespace: str, ref: TargetRef | None, point: EnforcementPoint) -> Reach:
        if point.reached_by is ReachedBy.FILTER or (self._waypoints_ask and point.kind is PointKind.WAYPOINT):
            return Reach.WHOLE
        whole = self._sent_points.get((point.namespace, point.name))
        if ref is not None and not whole:
            of_service = self._sent_services.get((str(ref_kind(ref)), namespace, ref.name))
            whole = of_service if whole is None else bool(of_service)
        if whole is None:
            return Reach.NOT_SENT
        return Reach.WHOLE if whole else Reach.PARTLY


_ORDER = tuple(Reach)
