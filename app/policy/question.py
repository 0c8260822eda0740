"""The question behind `explain`: one request at one enforcement point, in the words of a decision case.

`{"request": {...}, "target": {...}}` names the proxy and what stands behind it (a case's `workload`, which is also
understood, or the `target` of an answer); `{"request": {...}, "enforcementPoint": "<namespace>/<name>"}` takes a
registered proxy, and finds the services behind it by the request's destination, as a decision worker does, or takes
`service`, `<namespace>/<name>`. What registered proxies demand of a request before any policy (an identity, a known
service) is demanded here, too.

`provider_decisions` in the request are the answers of CUSTOM providers, for nobody is asked here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from app.errors import AppError, ErrorCode, FieldError
from app.policy.asked_user import asked_user
from app.policy.case_fields import CaseFields
from app.policy.cases import read_answers, read_request, read_target
from app.policy.decision import Decision, Reason
from app.policy.demands import Demands, Doors, demands_of
from app.policy.document import PROVIDER
from app.policy.enforcement_point import TARGET_UNKNOWN
from app.policy.explain import Explanation, explain
from app.policy.identity_matchers import SCHEME
from app.policy.mesh import MeshConfig
from app.policy.policy_view import PolicyView
from app.policy.provider import provider_key
from app.policy.request import Request
from app.policy.target import PointKind, ServiceRef, Target

_PLACES = ("target", "workload", "enforcementPoint")
_MEMBERS = {"request", "service", *_PLACES}
_KEY_PARTS = 2
_MAX_SHOWN = 100  # characters of a name that nobody knows


def answer_question(question: Any, view: PolicyView, *, now: datetime) -> dict[str, Any]:
    """The explanation as JSON, with the target that the question came to; `now` says which quarantines and grants hold.

    Raises:
        AppError: `INVALID` when it is not a question, `NOT_FOUND` for an enforcement point that is not registered.
    """
    if not isinstance(question, dict):
        raise _invalid("", "a question is an object with `request`, and `target` or `enforcementPoint`")
    for member in question:
        if member not in _MEMBERS:
            raise _invalid(f"/{member}", f"unknown member; known are {', '.join(sorted(_MEMBERS))}")
    request, rejected = read_request(question.get("request"), view.mesh)
    if is_account(request.principal):
        request.principal = full_identity(request.principal, view.mesh)
    target, demands = _target(question, request, view)
    quarantine = view.quarantines.of_identity(request.principal, now) if len(view.quarantines) else None
    refused = (demanded.refusal(target, request.principal) for demanded in demands)
    refusal = quarantine.decision if quarantine is not None else next(filter(None, refused), None)
    if target is None or refusal is not None:  # before any policy, wherever the request goes
        shown = None if target is None else target_to_json(target)
        return {**_before_policies(refusal or TARGET_UNKNOWN).to_json(), "target": shown}
    assumed = 0 if request.port else _only_port(target, view)
    request.port = request.port or assumed
    bad_token = rejected is not None and rejected.reason is Reason.TOKEN_INVALID
    user = asked_user(view.authentications, target, request, rejected if bad_token else None)
    rejected = user.refusal if bad_token or rejected is None else rejected
    if rejected is not None:
        explanation = _before_policies(rejected)
    else:
        explanation = explain(
            view.table,
            target,
            user.as_decided(request),
            _answers(question["request"], view),
            grants=view.grants.at(now),
        )
    note = user.note(request, explanation.rules)
    answer = {**explanation.to_json(), "target": target_to_json(target)} | ({"claims": note} if note else {})
    return answer | ({"assumedPort": assumed} if assumed else {}) | doubts_about((target,), view, request.port)


def _only_port(target: Target, view: PolicyView) -> int:
    """The one port of the services behind the target, 0 where they have none or several."""
    ports = {port for service in target.services for port in view.services.ports(service)}
    return ports.pop() if len(ports) == 1 else 0


def doubts_about(targets: Iterable[Target], view: PolicyView, port: int = 0) -> dict[str, Any]:
    """The member `unknownServices` of an answer: services that were asked about and that the inventory lacks.

    With its port a service that is there, and has others. Not said where the inventory has no services at all, as for
    files alone.
    """
    services = {service for target in targets for service in target.services} if len(view.services) else set()
    names = []
    for one in services:
        ports = view.services.ports(one)
        if view.services.named(f"{one.registry}/{one.namespace}/{one.name}") is None:
            names.append(f"{one.namespace}/{one.name}")
        elif port and ports and port not in ports:
            names.append(f"{one.namespace}/{one.name}:{port}")
    return {"unknownServices": sorted(names)} if names else {}


def _answers(request: Any, view: PolicyView) -> dict[str, bool]:
    """The answers that the question gives for providers; whom no document describes nobody can ask."""
    known = view.values.of(PROVIDER)
    return {name: allows for name, allows in read_answers(request).items() if provider_key(name) in known}


def is_account(caller: str) -> bool:
    """Whether a caller is written `<namespace>/<service account>`."""
    parts = caller.split("/")
    return len(parts) == 2 and all(parts)


def full_identity(caller: str, mesh: MeshConfig) -> str:
    """The SPIFFE ID of a caller written `<namespace>/<service account>`, in the trust domain of the mesh."""
    namespace, _, account = caller.partition("/")
    return f"{SCHEME}{mesh.trust_domain}/ns/{namespace}/sa/{account}"


def _before_policies(decision: Decision) -> Explanation:
    """What Envoy answers by itself: no rule was asked."""
    return Explanation(decision=decision, rules=(), nearest_miss=None)


def _target(
    question: Mapping[str, Any], request: Request, view: PolicyView
) -> tuple[Target | None, tuple[Demands, ...]]:
    """Where it is decided, None for nowhere; and what the proxies demand by which it may come there."""
    if sum(member in question for member in _PLACES) != 1:
        raise _invalid("", "say either `target` or `enforcementPoint`")
    service = read_service(question["service"]) if "service" in question else None
    if service is not None and "enforcementPoint" not in question:
        raise _invalid("/service", "a target names its service itself; this goes with `enforcementPoint`")
    for member in ("target", "workload"):
        if member in question:
            target = at_address(asked_target(question[member]), request.destination_ip, request.port, view)
            return target, tuple(door.demands[0] for door in Doors((view,)).of(target))
    name = question["enforcementPoint"]
    point = view.point(name) if isinstance(name, str) else None
    if point is None:
        raise no_such_point(name)
    found = view.services.at_address(request.destination_ip, request.port) if service is None else (service,)
    return point.target(found), (demands_of(point),)


def no_such_point(name: Any) -> AppError:
    """The error for an enforcement point that no document registers."""
    shown = repr(name)[:_MAX_SHOWN]
    message = f"there is no such enforcement point, {shown}: write <namespace>/<name> of an EnforcementPoint document"
    return AppError(ErrorCode.NOT_FOUND, message)


def read_service(name: Any) -> ServiceRef:
    """The service of a question.

    Raises:
        AppError: `INVALID` when it is not written `<namespace>/<name>`.
    """
    parts = name.split("/") if isinstance(name, str) else []
    if len(parts) != _KEY_PARTS or not all(parts):
        raise _invalid("/service", "a service is written <namespace>/<name>")
    return ServiceRef(parts[0], parts[1])


def asked_target(raw: Any) -> Target:
    """A target in the words of a case, or as an answer shows it.

    Raises:
        AppError: `INVALID` when it is neither.
    """
    if not isinstance(raw, Mapping) or "services" not in raw:
        return read_target(raw)
    shown = (CaseFields(one, "target.services") for one in CaseFields(raw, "target").items("services"))
    services = tuple(
        ServiceRef(one.text("namespace"), one.text("name"), one.text("registry") or "Kubernetes") for one in shown
    )
    words = {"gatewayName": "gateway_name", "gatewayClass": "gateway_class"}
    case = {words.get(name, name): value for name, value in raw.items() if name != "services"}
    return replace(read_target(case), services=services)


def at_address(target: Target, address: str, port: int, view: PolicyView) -> Target:
    """A target; where it is a waypoint and no service is named, with the services that are known at an address."""
    if target.kind is not PointKind.WAYPOINT or target.services or not address:
        return target
    return replace(target, services=view.services.at_address(address, port))


def target_to_json(target: Target) -> dict[str, Any]:
    """The target in the words of an answer."""
    return {
        "kind": target.kind.value,
        "namespace": target.namespace,
        "labels": dict(target.labels),
        "services": [
            {"registry": service.registry, "namespace": service.namespace, "name": service.name}
            for service in target.services
        ],
        "gatewayName": target.gateway_name,
        "gatewayClass": target.gateway_class,
    }


def _invalid(pointer: str, message: str) -> AppError:
    return AppError(ErrorCode.INVALID, message, errors=(FieldError(pointer, message),))
