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
from app.identity.spiffe import is_spiffe_id
from app.policy import reachability
from app.policy.atom_patterns import DESTINATION_IP, HOST, IDENTITY, METHOD, PATH, PORT, REMOTE_IP, SNI, SOURCE_IP, Part
from app.policy.case_fields import CaseFields
from app.policy.known_targets import known_targets, targets_of_service
from app.policy.matchers import parse_ip
from app.policy.mesh import MeshConfig
from app.policy.paths import cut, normalize
from app.policy.places import Place, places_at
from app.policy.policy_view import PolicyView
from app.policy.question import (
    asked_target,
    at_address,
    doubts_about,
    full_identity,
    is_account,
    no_such_point,
    read_service,
)
from app.policy.target import ServiceRef, Target

_PLACES = ("target", "enforcementPoint")
_MEMBERS = frozenset({"request", "service", *_PLACES})
_DIFF_MEMBERS = frozenset({"request", "service", "reasons", "shadow", *_PLACES})
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
_MAX_SHOWN = 100  # characters of what cannot be read
_PLACED = {"service", "target"}  # members that name a service, which somebody may have misspelt


def answer_reach(question: Any, view: PolicyView, *, now: datetime) -> dict[str, Any]:
    """Who and what is allowed, of all requests that the question leaves open; `now` says which quarantines hold.

    Raises:
        AppError: `INVALID` when it is not a question; `TOO_LARGE` when the answer would be over a limit; `NOT_FOUND`
            for an enforcement point that is not registered.
    """
    members = _members(question, _MEMBERS)
    protocol, given = _known(members.get("request"), view.mesh)
    places = _places(members, (view,), given, protocol or "http")
    asked = [place.target for place in places] if _PLACED & members.keys() else []
    doubts = doubts_about(asked, view, given.get(PORT, 0))
    return reachability.reach(view, places, given, now) | doubts


def answer_diff(question: Any, before: PolicyView, after: PolicyView, *, now: datetime) -> dict[str, Any]:
    """Every class of requests that the two sets decide otherwise; with `reasons`, or by another rule.

    With `shadow` the second set is asked as if what it tries out were in force; `triedOut` counts the policies.

    Raises:
        AppError: as `answer_reach`.
    """
    members = _members(question, _DIFF_MEMBERS)
    protocol, given = _known(members.get("request"), after.mesh)
    reasons, shadow = _switch(members, "reasons"), _switch(members, "shadow")
    if shadow:
        after = after.proposed()
    places = _places(members, (before, after), given, protocol)
    answer = reachability.difference((before, after), places, given, now, reasons=reasons)
    return answer | ({"triedOut": after.table.tried} if shadow else {})


def _switch(members: Mapping[str, Any], name: str) -> bool:
    value = members.get(name, False)
    if not isinstance(value, bool):
        raise _invalid(f"/{name}", "true or false is wanted")
    return value


def _caller(caller: str, mesh: MeshConfig) -> str:
    identity = full_identity(caller, mesh) if is_account(caller) else caller
    if not identity or is_spiffe_id(identity):
        return identity
    message = f"{caller[:_MAX_SHOWN]!r} is no single caller: write a SPIFFE ID, or <namespace>/<service account>"
    raise _invalid("/request/source_principal", message)


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
    for member in ("source_ip", "remote_ip", "destination_ip"):
        value = given.get(_TEXTS[member])
        if value and parse_ip(value) is None:
            raise _invalid(f"/request/{member}", f"{value[:_MAX_SHOWN]!r} is no IP address")
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


def _places(
    members: Mapping[str, Any], views: tuple[PolicyView, ...], given: Mapping[Part, Any], protocol: str
) -> list[Place]:
    """Where it is asked; where nothing is said, everywhere that some policy may be asked."""
    service = read_service(members["service"]) if "service" in members else None
    address, port = given.get(DESTINATION_IP, ""), given.get(PORT, 0)
    if "enforcementPoint" in members:
        name = members["enforcementPoint"]
        targets = [_behind(name, views, (service,) if service else views[-1].services.at_address(address, port))]
        return list(places_at(views, targets, protocol, name))
    if "target" in members:
        target = at_address(asked_target(members["target"]), address, port, views[-1])
        return list(places_at(views, [target], protocol))
    if service is not None:
        return list(places_at(views, targets_of_service(views, (service,)), protocol))
    services = views[-1].services.at_address(address, port) if address else ()
    if services:
        return list(places_at(views, targets_of_service(views, services), protocol))
    places = places_at(views, known_targets(views), protocol)
    return [place for place in places if not place.denies_everything]


def _behind(name: Any, views: tuple[PolicyView, ...], services: tuple[ServiceRef, ...]) -> Target:
    """What a registered proxy decides for."""
    points = [view.point(name) for view in views] if isinstance(name, str) else []
    known = [point for point in reversed(points) if point is not None]
    if not known:
        raise no_such_point(name)
    for point in known:
        target = point.target(services)
        if target is not None:
            return target
    raise _invalid("/service", "this enforcement point requires a known service: name one (--to NAMESPACE/SERVICE)")


def _invalid(pointer: str, message: str) -> AppError:
    return AppError(ErrorCode.INVALID, message, errors=(FieldError(pointer, message),))
