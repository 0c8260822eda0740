"""Registered proxies: who may ask for decisions, and which proxy a request was enforced at.

`caller` says how a worker recognises the proxy, and with it in which of three placements the identity that the
proxy forwards is believed (docs/architecture.md): a loopback `listener` that only it shares, its own SPIFFE ID over
mutual TLS, or its SPIFFE ID asserted behind a ztunnel that admits registered waypoints only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from app.errors import AppError, ErrorCode, FieldError
from app.identity.forwarded_for import MAX_TRUSTED_HOPS
from app.identity.spiffe import is_spiffe_id
from app.policy.decision import Decision, Reason
from app.policy.document import ENFORCEMENT_POINT, Document
from app.policy.target import PointKind, ServiceRef, Target

MAX_LABELS = 64
MAX_WORKLOADS = 64

_FIELDS = frozenset(
    {
        "kind",
        "gateway",
        "gatewayClass",
        "labels",
        "requireIdentity",
        "requireService",
        "targetFromContextExtensions",
        "serviceFromHost",
        "trustedHops",
        "caller",
        "reachedBy",
        "workloads",
    }
)
_CALLER_FIELDS = frozenset({"listener", "spiffeId", "via"})
WAYPOINT_CLASS = "istio-waypoint"
TARGET_UNKNOWN = Decision(
    False,
    Reason.TARGET_UNKNOWN,
    hint="nothing known says where the request goes: no service has its destination address; add it to the inventory "
    "(`gatehouse inventory apply`)",
)


class ReachedBy(StrEnum):
    """How the requests of a proxy come to us: by a CUSTOM policy of the set, or by a filter that is configured."""

    CUSTOM_POLICY = "custom-policy"
    FILTER = "filter"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnforcementPoint:
    """One proxy. Exactly one of `listener` and `spiffe_id` is set; `via_ztunnel` goes with the latter.

    `labels` are sorted pairs. `trusted_hops` proxies before this one are believed what X-Forwarded-For says; with none
    the direct peer is the client that `remoteIpBlocks` asks about. `require_identity` denies requests whose sender the
    proxy cannot tell, `require_service` those to an address of no known service; without it such a request is decided
    by the policies of the proxy itself. `target_from_context_extensions` lets the proxy's own configuration name the
    service where the address does not, `service_from_host` the Host header, which clients write: only for a proxy that
    routes by it.
    `workloads` are the labels of what stands behind a waypoint, each a set of sorted pairs; empty: its whole namespace.
    """

    name: str
    namespace: str
    kind: PointKind
    gateway: str = ""
    gateway_class: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    require_identity: bool = False
    require_service: bool = False
    trusted_hops: int = 0
    target_from_context_extensions: bool = False
    service_from_host: bool = False
    listener: str = ""
    spiffe_id: str = ""
    via_ztunnel: bool = False
    reached_by: ReachedBy = ReachedBy.CUSTOM_POLICY
    workloads: tuple[tuple[tuple[str, str], ...], ...] = ()

    def target(self, services: tuple[ServiceRef, ...]) -> Target | None:
        """What a request at this proxy is decided for, given the services at its destination address.

        None when the request must be for a known service and is not.
        """
        if self.require_service and not services:
            return None
        return Target(
            self.kind,
            self.namespace,
            labels=self.labels,
            services=services if self.kind is PointKind.WAYPOINT else (),
            gateway_name=self.gateway,
            gateway_class=self.gateway_class,
        )


def from_document(document: Document) -> EnforcementPoint:
    """The enforcement point in an EnforcementPoint document.

    Raises:
        AppError: `INVALID`, with a field error for everything that is wrong with it.
    """
    if document.kind != ENFORCEMENT_POINT:
        raise AppError(ErrorCode.INVALID, f"a {document.kind} document does not describe an enforcement point")
    errors: list[FieldError] = []
    point = _read(document, errors)
    if errors or point is None:
        raise AppError(ErrorCode.INVALID, "the EnforcementPoint document is not valid", errors=tuple(errors))
    return point


def _read(document: Document, errors: list[FieldError]) -> EnforcementPoint | None:
    spec = document.spec
    errors.extend(
        FieldError(f"/spec/{key}", f"this field is not known; known are {', '.join(sorted(_FIELDS))}")
        for key in spec
        if key not in _FIELDS
    )
    try:
        kind = PointKind(spec.get("kind", ""))
    except ValueError:
        errors.append(FieldError("/spec/kind", f"one of {', '.join(PointKind)} is wanted"))
        return None
    gateway = _text(spec, "gateway", errors)
    gateway_class = _text(spec, "gatewayClass", errors)
    if kind is PointKind.WAYPOINT:
        gateway_class = gateway_class or WAYPOINT_CLASS
        if not gateway:
            errors.append(FieldError("/spec/gateway", "name the Gateway that this waypoint is"))
    require_identity = _switch(spec, "requireIdentity", errors, default=kind is PointKind.WAYPOINT)
    from_host = _switch(spec, "serviceFromHost", errors, default=False)
    # Who chooses the Host must not thereby choose to be no service's business.
    require_service = _switch(spec, "requireService", errors, default=from_host)
    from_extensions = _switch(spec, "targetFromContextExtensions", errors, default=False)
    if kind is not PointKind.WAYPOINT:
        errors.extend(
            FieldError(f"/spec/{key}", "only a waypoint is in front of services")
            for key in ("requireService", "serviceFromHost", "targetFromContextExtensions")
            if spec.get(key) is True
        )
    listener, spiffe_id, via_ztunnel = _caller(spec.get("caller"), errors)
    return EnforcementPoint(
        name=document.name,
        namespace=document.namespace,
        kind=kind,
        gateway=gateway,
        gateway_class=gateway_class,
        labels=_labels(spec.get("labels"), "/spec/labels", errors),
        require_identity=require_identity,
        require_service=require_service,
        trusted_hops=_trusted_hops(spec, errors),
        target_from_context_extensions=from_extensions,
        service_from_host=from_host,
        listener=listener,
        spiffe_id=spiffe_id,
        via_ztunnel=via_ztunnel,
        reached_by=_reached_by(spec, errors),
        workloads=_workloads(spec, kind, errors),
    )


def _switch(spec: Mapping[str, Any], key: str, errors: list[FieldError], *, default: bool) -> bool:
    value = spec.get(key, default)
    if not isinstance(value, bool):
        errors.append(FieldError(f"/spec/{key}", "true or false is wanted"))
        return default
    return value


def _trusted_hops(spec: Mapping[str, Any], errors: list[FieldError]) -> int:
    value = spec.get("trustedHops", 0)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_TRUSTED_HOPS:
        errors.append(FieldError("/spec/trustedHops", f"how many proxies before this one: 0 to {MAX_TRUSTED_HOPS}"))
        return 0
    return value


def _text(spec: Mapping[str, Any], key: str, errors: list[FieldError]) -> str:
    value = spec.get(key, "")
    if not isinstance(value, str):
        errors.append(FieldError(f"/spec/{key}", "a string is wanted"))
        return ""
    return value


def _reached_by(spec: Mapping[str, Any], errors: list[FieldError]) -> ReachedBy:
    try:
        return ReachedBy(spec.get("reachedBy", ReachedBy.CUSTOM_POLICY))
    except ValueError:
        errors.append(FieldError("/spec/reachedBy", f"one of {', '.join(ReachedBy)} is wanted"))
        return ReachedBy.CUSTOM_POLICY


def _workloads(
    spec: Mapping[str, Any], kind: PointKind, errors: list[FieldError]
) -> tuple[tuple[tuple[str, str], ...], ...]:
    value = spec.get("workloads")
    if value is None:
        return ()
    if not isinstance(value, list) or not value or len(value) > MAX_WORKLOADS:
        errors.append(FieldError("/spec/workloads", f"a list of one to {MAX_WORKLOADS} objects of labels is wanted"))
        return ()
    if kind is not PointKind.WAYPOINT:
        errors.append(FieldError("/spec/workloads", "only a waypoint has workloads behind it"))
    found = tuple(_labels(item, f"/spec/workloads/{index}", errors) for index, item in enumerate(value))
    errors.extend(
        FieldError(f"/spec/workloads/{index}", "name a label; without `workloads` the whole namespace is meant")
        for index, item in enumerate(value)
        if item == {} or item is None
    )
    return found


def _labels(value: Any, pointer: str, errors: list[FieldError]) -> tuple[tuple[str, str], ...]:
    if value is None:
        return ()
    if (
        not isinstance(value, dict)
        or len(value) > MAX_LABELS
        or not all(isinstance(k, str) and isinstance(v, str) for k, v in value.items())
    ):
        errors.append(FieldError(pointer, f"an object of at most {MAX_LABELS} strings is wanted"))
        return ()
    return tuple(sorted(value.items()))


def _caller(value: Any, errors: list[FieldError]) -> tuple[str, str, bool]:
    """Listener, SPIFFE ID, and whether a ztunnel stands between."""
    if not isinstance(value, dict):
        errors.append(FieldError("/spec/caller", "say how the proxy is recognised: listener, or spiffeId"))
        return "", "", False
    errors.extend(
        FieldError(f"/spec/caller/{key}", f"this field is not known; known are {', '.join(sorted(_CALLER_FIELDS))}")
        for key in value
        if key not in _CALLER_FIELDS
    )
    listener, spiffe_id, via = value.get("listener"), value.get("spiffeId"), value.get("via")
    if (listener is None) == (spiffe_id is None):
        errors.append(FieldError("/spec/caller", "exactly one of listener and spiffeId is wanted"))
    if listener is not None and (not isinstance(listener, str) or not listener):
        errors.append(FieldError("/spec/caller/listener", "name a listener of the decision workers"))
    if spiffe_id is not None and (not isinstance(spiffe_id, str) or not is_spiffe_id(spiffe_id)):
        errors.append(FieldError("/spec/caller/spiffeId", "a SPIFFE ID, spiffe://<trust domain>/..., is wanted"))
    if via is not None and (via != "ztunnel" or spiffe_id is None):
        errors.append(FieldError("/spec/caller/via", "only `ztunnel` is known, and only beside spiffeId"))
    return str(listener or ""), str(spiffe_id or ""), via == "ztunnel"
