"""Questions about many requests at once, in the words of decision cases: who can, what can, what differs.

`{"request": {...}}` holds what is known of the requests; every member that is left out may be anything. Where it is
asked is said as for `explain` (`target` or `enforcementPoint`), or by `service`, `<namespace>/<name>` with whatever
waypoint stands before it; where nothing is said, everywhere that the documents and the inventory know.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from app.errors import AppError, ErrorCode, FieldError
from app.policy import reachability
from app.policy.atom_patterns import DESTINATION_IP, HOST, IDENTITY, METHOD, PATH, PORT, REMOTE_IP, SNI, SOURCE_IP, Part
from app.policy.case_fields import CaseFields
from app.policy.cases import read_target
from app.policy.identity_matchers import SCHEME
from app.policy.known_targets import known_targets, targets_of_service
from app.policy.mesh import MeshConfig
from app.policy.paths import cut, normalize
from app.policy.policy_view import PolicyView
from app.policy.question import doubts_about, full_identity, is_account
from app.policy.target import ServiceRef, Target

_PLACES = ("target", "enforcementPoint")
_MEMBERS = frozenset({"request", "service", *_PLACES})
_DIFF_MEMBERS = frozenset({"request", "service", "reasons", *_PLACES})
_TEXTS: Mapping[str, Part] = {
    "source_ip": SOURCE_IP,
    "remote_ip": REMOTE_IP,
    "destination_ip": DESTINATION_IP,
    "method": METHOD,
    "host": HOST,
    "sni": SNI,
}
_REQUEST_MEMBERS = ("protocol", "source_principal", "port", "path", "headers", *_TEXTS)
_PROTOCOLS = ("http", "grpc", "tcp")
_KEY_PARTS = 2
_PLACED = {"service", "target"}  # members that name a service, which somebody may have misspelt


def answer_reach(question: Any, view: PolicyView, *, now: datetime) -> dict[str, Any]:
    """Who and what is allowed, of all requests that the question leaves open; `now` says which quarantines hold.

    Raises:
        AppError: `INVALID` when it is not a question; `TOO_LARGE` when the answer would be over a limit; `NOT_FOUND`
            for an enforcement point that is not registered.
    """
    members = _members(question, _MEMBERS)
    protocol, given = _known(members.get("request"), view.mesh)
    targets = _targets(members, (view,))
    places = reachability.places_at(targets, protocol or "http")
    doubts = doubts_about(targets, view) if _PLACED & members.keys() else {}
    return reachability.reach(view, places, given, now) | doubts


def answer_diff(question: Any, before: PolicyView, after: PolicyView, *, now: datetime) -> dict[str, Any]:
    """Every class of requests that the two sets decide otherwise; with `reasons`, or by another rule.

    Raises:
        AppError: as `answer_reach`.
    """
    members = _members(question, _DIFF_MEMBERS)
    protocol, given = _known(members.get("request"), after.mesh)
    reasons = members.get("reasons", False)
    if not isinstance(reasons, bool):
        raise _invalid("/reasons", "true or false is wanted")
    places = reachability.places_at(_targets(members, (before, after)), protocol)
    return reachability.difference((before, after), places, given, now, reasons=reasons)


def _caller(caller: str, mesh: MeshConfig) -> str:
    if is_account(caller):
        return full_identity(caller, mesh)
    if caller.startswith(SCHEME) or not caller:
        return caller
    raise _invalid("/request/source_principal", "write a SPIFFE ID, or <namespace>/<service account>")


def _members(question: Any, known: frozenset[str]) -> Mapping[str, Any]:
    if not isinstance(question, dict):
        raise _invalid("", f"a question is an object with {', '.join(sorted(known))}")
    for member in question:
        if member not in known:
            raise _invalid(f"/{member}", f"unknown member; known are {', '.join(sorted(known))}")
    if sum(member in question for member in _PLACES) > 1:
        raise _invalid("", "say either `target` or `enforcementPoint`")
    return question


def _known(raw: Any, mesh: MeshConfig) -> tuple[str, dict[Part, Any]]:
    """The protocol, empty for any, and the values that are known."""
    fields = CaseFields(raw or {}, "request", _REQUEST_MEMBERS)
    protocol = fields.choice("protocol", _PROTOCOLS, "http") if fields.has("protocol") else ""
    given: dict[Part, Any] = {part: fields.text(member) for member, part in _TEXTS.items() if fields.has(member)}
    if fields.has("source_principal"):
        given[IDENTITY] = _caller(fields.text("source_principal"), mesh)
    if fields.has("port"):
        given[PORT] = fields.port("port")
    if fields.has("path"):
        given[PATH] = _as_filters_see_it(fields.text("path"), mesh)
    headers = fields.fields("headers")
    for name in headers.names():
        values = headers.header_values(name)
        if len(values) != 1:
            raise _invalid(f"/request/headers/{name}", "one value is wanted; ask `explain` about several")
        given[Part("header", name.lower())] = values[0]
    return "tcp" if protocol == "tcp" else protocol and "http", given


def _as_filters_see_it(path: str, mesh: MeshConfig) -> str:
    normalized = normalize(path, mesh.path_normalization) if path.startswith("/") else None
    if normalized is None:
        raise _invalid("/request/path", "Envoy answers 400 to this path, or it does not start with a slash")
    return cut(normalized)


def _targets(members: Mapping[str, Any], views: tuple[PolicyView, ...]) -> list[Target]:
    service = _service(members["service"]) if "service" in members else None
    if "target" in members:
        return [read_target(members["target"])]
    if "enforcementPoint" in members:
        name = members["enforcementPoint"]
        points = [view.point(name) for view in views] if isinstance(name, str) else []
        point = next((point for point in reversed(points) if point is not None), None)
        if point is None:
            raise AppError(ErrorCode.NOT_FOUND, "there is no such enforcement point: it reads <namespace>/<name>")
        target = point.target((service,) if service else ())
        if target is None:
            raise _invalid("/service", "this enforcement point is asked about services only: name one")
        return [target]
    return targets_of_service(views, service) if service is not None else known_targets(views)


def _service(name: Any) -> ServiceRef:
    parts = name.split("/") if isinstance(name, str) else []
    if len(parts) != _KEY_PARTS or not all(parts):
        raise _invalid("/service", "a service is written <namespace>/<name>")
    return ServiceRef(parts[0], parts[1])


def _invalid(pointer: str, message: str) -> AppError:
    return AppError(ErrorCode.INVALID, message, errors=(FieldError(pointer, message),))
