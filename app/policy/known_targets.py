"""The targets that a question about "everywhere" goes through: what the documents and the inventory know.

Waypoints are the registered ones and those that policies name, each with the services of its namespace and without
one; a service in a namespace without a waypoint is looked at behind every known waypoint, or else behind one of the
usual name. Registered proxies of other kinds are as they are registered. Where policies attach by namespace or label, a
sidecar and ztunnel stand for every workload with such labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from app.errors import AppError, ErrorCode
from app.policy.attachment import WAYPOINT_CLASS, ref_kind
from app.policy.document import ENFORCEMENT_POINT
from app.policy.enforcement_point import EnforcementPoint
from app.policy.policy_view import PolicyView
from app.policy.target import PointKind, ServiceRef, Target

_USUAL_NAME = "waypoint"
_MAX_LABEL_SETS = 64  # of one namespace
_REGISTRIES = {"Service": "Kubernetes", "ServiceEntry": "External"}

Labels = tuple[tuple[str, str], ...]


def waypoint(namespace: str, gateway: str = _USUAL_NAME, services: tuple[ServiceRef, ...] = ()) -> Target:
    """A waypoint, with the services behind it that share an address."""
    return Target(
        PointKind.WAYPOINT,
        namespace,
        services=services,
        gateway_name=gateway,
        gateway_class=WAYPOINT_CLASS,
    )


def targets_of_service(views: Sequence[PolicyView], services: tuple[ServiceRef, ...]) -> list[Target]:
    """The waypoints that may stand before a service, or before services that share an address."""
    return [
        waypoint(namespace, gateway, services)
        for namespace, gateway in _before(_waypoints(views), services[0].namespace)
    ]


def known_targets(views: Sequence[PolicyView]) -> list[Target]:
    """Every target that the views know, in a stable order.

    Raises:
        AppError: `TOO_LARGE` when there are more than `policy.max_question_targets`.
    """
    most = views[0].table.limits.max_question_targets
    found: dict[Target, None] = {}
    for target in _targets(views):
        found[target] = None
        if len(found) > most:
            raise AppError(
                ErrorCode.TOO_LARGE,
                f"there are more than {most} targets (policy.max_question_targets); name one with --to or --at",
            )
    return sorted(found, key=lambda target: (target.kind.value, target.namespace, repr(target)))


def _targets(views: Sequence[PolicyView]) -> Iterator[Target]:
    waypoints = _waypoints(views)
    yield from (waypoint(*one) for one in waypoints)
    for service in _services(views):
        for namespace, gateway in _before(waypoints, service.namespace):
            yield waypoint(namespace, gateway, (service,))
    for point in _points(views):
        if point.kind is not PointKind.WAYPOINT:
            yield Target(
                point.kind,
                point.namespace,
                labels=point.labels,
                gateway_name=point.gateway,
                gateway_class=point.gateway_class,
            )
    for namespace, labels in _workloads(views):
        yield Target(PointKind.SIDECAR, namespace, labels=labels)
        yield Target(PointKind.ZTUNNEL, namespace, labels=labels)


def _points(views: Sequence[PolicyView]) -> Iterator[EnforcementPoint]:
    for view in views:
        yield from view.values.of(ENFORCEMENT_POINT).values()


def _waypoints(views: Sequence[PolicyView]) -> list[tuple[str, str]]:
    """Namespace and gateway of each waypoint."""
    points = list(_points(views))
    others = {(point.namespace, point.gateway) for point in points if point.kind is not PointKind.WAYPOINT}
    found = {(point.namespace, point.gateway): None for point in points if point.kind is PointKind.WAYPOINT}
    named = ((namespace, name) for namespace, kind, name in _refs(views) if kind == "Gateway")
    found.update((one, None) for one in named if one not in others)
    return list(found)


def _before(waypoints: Iterable[tuple[str, str]], namespace: str) -> list[tuple[str, str]]:
    own = [one for one in waypoints if one[0] == namespace]
    return own or list(waypoints) or [(namespace, _USUAL_NAME)]


def _services(views: Sequence[PolicyView]) -> list[ServiceRef]:
    found = {
        ServiceRef(service.namespace, service.name, service.registry): None
        for view in views
        for service in view.services.all()
    }
    for namespace, kind, name in _refs(views):
        if kind in _REGISTRIES:
            found[ServiceRef(namespace, name, _REGISTRIES[kind])] = None
    return list(found)


def _refs(views: Sequence[PolicyView]) -> Iterator[tuple[str, str, str]]:
    """Namespace, kind and name of what policies attach to by name."""
    for view in views:
        for policy in (*view.table.policies(), *view.grants.table.policies()):
            for ref in policy.spec.target_refs:
                kind = ref_kind(ref)
                if kind is not None:
                    yield policy.namespace, kind, ref.name


def _workloads(views: Sequence[PolicyView]) -> Iterator[tuple[str, Labels]]:
    """Namespaces with the labels that policies there select, alone and together."""
    selectors: dict[str, dict[Labels, None]] = {}
    for view in views:
        for policy in view.table.policies():
            if not policy.spec.target_refs:
                labels = tuple(sorted((policy.spec.selector or {}).items()))
                selectors.setdefault(policy.namespace, {})[labels] = None
    if not selectors:
        return
    roots = {view.mesh.root_namespace for view in views}
    namespaces = {*selectors, *(service.namespace for service in _services(views))}
    everywhere = [labels for root in sorted(roots) for labels in selectors.get(root, ())]
    for namespace in sorted(namespaces):
        for labels in _together([*selectors.get(namespace, ()), *everywhere], namespace):
            yield namespace, labels


def _together(selectors: Sequence[Labels], namespace: str) -> list[Labels]:
    """Every set of labels that some of the selectors ask for together."""
    found: dict[Labels, None] = {(): None}
    for selector in dict.fromkeys(selectors):
        for labels in list(found):
            merged = dict(labels)
            if all(merged.setdefault(name, value) == value for name, value in selector):
                found[tuple(sorted(merged.items()))] = None
        if len(found) > _MAX_LABEL_SETS:
            raise AppError(
                ErrorCode.TOO_LARGE,
                f"the selectors of namespace {namespace} can be combined in more than {_MAX_LABEL_SETS} ways; "
                "name a workload with --at and --label",
            )
    return list(found)
