"""Where a request really goes, and so which policies hold for it.

In this order, the first that knows: the destination address, by the services of the inventory; the context extensions
of a proxy that is registered as one whose configuration names services; the Host header, where the registered proxy is
said to route by it; the certificate of a proxy that ends mutual TLS itself; the proxy that asks. A header that a client
can write is looked at in that one case only, and a request that nothing tells about is denied.
"""

from __future__ import annotations

from enum import Enum
from typing import TypeVar

from app.decision.attributes import CheckAttributes
from app.decision.state import DecisionState, Further
from app.errors import AppError
from app.identity.spiffe import WorkloadIdentity
from app.policy.enforcement_point import EnforcementPoint
from app.policy.services import ServiceIndex
from app.policy.target import PointKind, ServiceRef, Target

SERVICE_EXTENSION = "gatehouse.dev/service"

_MAX_REMEMBERED = 65_536
_MAX_UNKNOWN = _MAX_REMEMBERED // 2  # clients choose addresses that lead nowhere: these leave room for those that do

_NO_PORT = -1  # under it, what a certificate says is remembered beside what addresses say


class _Wrong(Enum):
    """The extension names what is no service of the inventory: a mistake that must not open anything."""

    EXTENSION = 0


def resolve_target(state: DecisionState, point: EnforcementPoint | None, attributes: CheckAttributes) -> Target | None:
    """What a request is decided for; None when nothing says where it goes.

    `point` is the registered proxy that asks, None where an unregistered one may. What the address alone says is
    remembered in the state: the services and the points never change under it.
    """
    key = (id(point), attributes.destination_ip, attributes.destination_port)
    try:
        found = state.targets[key]
    except KeyError:
        found = _remember(state, key, _by_address(state, point, attributes))
    return found if found is not Further.EVIDENCE else _by_further_evidence(state, point, attributes)


_Found = TypeVar("_Found", Target | None, Target | Further | None)


def _remember(state: DecisionState, key: tuple[int, str, int], found: _Found) -> _Found:
    if len(state.targets) < (_MAX_REMEMBERED if isinstance(found, Target) else _MAX_UNKNOWN):
        state.targets[key] = found
    return found


def _by_address(
    state: DecisionState, point: EnforcementPoint | None, attributes: CheckAttributes
) -> Target | Further | None:
    services = state.services.lookup(attributes.destination_ip, attributes.destination_port)
    if point is None:
        if services:
            return Target(PointKind.WAYPOINT, services[0].namespace, services=services)
        return Further.EVIDENCE
    if point.kind is not PointKind.WAYPOINT:
        return Further.EVIDENCE
    if not services and (point.target_from_context_extensions or point.service_from_host):
        return Further.EVIDENCE
    return point.target(services)


def _by_further_evidence(
    state: DecisionState, point: EnforcementPoint | None, attributes: CheckAttributes
) -> Target | None:
    if point is None or point.kind is not PointKind.WAYPOINT:
        principal = attributes.destination_principal
        key = (id(point), principal, _NO_PORT)
        try:
            found = state.targets[key]
        except KeyError:
            found = _remember(state, key, _by_certificate(state, point, principal))
        return found if found is not Further.EVIDENCE else None
    if point.target_from_context_extensions:
        named = _by_extension(state.services, attributes)
        if named is _Wrong.EXTENSION:
            return None
        if named is not None:
            return point.target((named,))
    services = _by_host(state.services, attributes) if point.service_from_host else ()
    return point.target(services)


def _by_extension(services: ServiceIndex, attributes: CheckAttributes) -> ServiceRef | _Wrong | None:
    extensions = attributes.context_extensions
    value = extensions.get(SERVICE_EXTENSION) if extensions is not None else None
    if value is None:
        return None
    key = value if value.count("/") > 1 else f"Kubernetes/{value}"
    return services.named(key) or _Wrong.EXTENSION


def _by_host(services: ServiceIndex, attributes: CheckAttributes) -> tuple[ServiceRef, ...]:
    return services.lookup_host(attributes.host, attributes.destination_port)


def _by_certificate(state: DecisionState, point: EnforcementPoint | None, principal: str) -> Target | None:
    """By the proxy's own certificate: it is where the request has arrived.

    A proxy that is registered for the namespace is what it was registered as. Of any other no labels are known, so it
    can only be decided for where no policy of the namespace attaches by label.
    """
    namespace = _namespace_of(principal) if principal else ""
    if point is not None and namespace in ("", point.namespace):
        return point.target(())
    if not namespace or state.table.needs_labels(namespace):
        return None
    return Target(PointKind.SIDECAR if point is None else point.kind, namespace)


def _namespace_of(principal: str) -> str:
    try:
        return WorkloadIdentity.parse(principal).namespace
    except AppError:
        return ""
