"""Questions answer as Check does, also what a proxy demands before any policy: an identity, a known service."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from app.decision.attributes import Peer, Transport
from app.policy.decision import Decision
from app.policy.known_targets import waypoint
from app.policy.places import places_at
from app.policy.policy_view import PolicyView
from app.policy.question import answer_question
from app.policy.reachability import request_to_json
from app.policy.request import UNAVAILABLE, Request
from app.policy.request_space import RequestSpace
from app.policy.target import ServiceRef, Target
from tests.support.decisions import (
    FRONTEND,
    GATEWAY_REF,
    ORDERS_IP,
    REPORTS,
    SERVICE_REF,
    SERVICES,
    Worker,
    xfcc,
)
from tests.support.grants import grant
from tests.support.policies import LIMITS, document, policy, source, to
from tests.support.snapshots import point

NOW = datetime(2030, 1, 1, tzinfo=UTC)
_SETTINGS = settings(max_examples=40, deadline=None)
_LISTENERS = ("local", "other")
_ELSEWHERE = "10.9.9.9"

_RULES = st.sampled_from(
    [
        {},
        source(principals=["*"]),
        source(principals=["cluster.local/ns/shop/sa/frontend"]),
        source(notPrincipals=["cluster.local/ns/shop/sa/frontend"]),
        source(notNamespaces=["shop"]),
        to(methods=["GET"]),
        to(ports=["8080"]),
        to(notPorts=["8080"]),
        {**source(notPrincipals=["*"]), **to(paths=["/orders"])},
    ]
)


@st.composite
def _sets(draw: st.DrawFn) -> list[dict[str, Any]]:
    found = [
        policy(
            draw(_RULES), action=draw(st.sampled_from(["ALLOW", "ALLOW", "DENY"])), name=f"p{number}", targetRefs=[ref]
        )
        for number, ref in enumerate(draw(st.lists(st.sampled_from([SERVICE_REF, GATEWAY_REF]), max_size=3)))
    ]
    for listener in draw(st.lists(st.sampled_from(_LISTENERS), max_size=2, unique=True)):
        demands = {name: draw(st.booleans()) for name in ("requireIdentity", "requireService") if draw(st.booleans())}
        found.append(point(listener, caller={"listener": listener}, **demands))
    if draw(st.integers(0, 4)) == 0:
        spec = {"identity": REPORTS, "reason": "a leak"}
        found.append({"apiVersion": "gatehouse.dev/v1", "kind": "Quarantine", "metadata": {"name": "q"}, "spec": spec})
    if draw(st.integers(0, 3)) == 0:
        times = {"notBefore": "2029-12-31T23:00:00Z", "expiresAt": "2030-01-01T01:00:00Z"}
        refs = {"targetRefs": [SERVICE_REF], "breakGlass": True, "overridesDeny": True}
        found.append(grant("g", subjects=[{"principals": ["*"]}], **times, **refs))
    return found


# Who calls, as the waypoint says it, and what that is to questions.
_CALLERS = st.sampled_from(
    [
        (xfcc(FRONTEND), FRONTEND),
        (xfcc(REPORTS), REPORTS),
        (xfcc("-"), ""),
        (xfcc(""), UNAVAILABLE),
        ({}, UNAVAILABLE),
        (xfcc(FRONTEND + " "), UNAVAILABLE),
    ]
)
_REQUESTS = st.fixed_dictionaries(
    {"method": st.sampled_from(["GET", "PUT"]), "path": st.sampled_from(["/orders", "/"])}
)
# A service is reached at its ports only: at another one nobody knows it.
_DESTINATIONS = st.sampled_from([(ORDERS_IP, 8080), (ORDERS_IP, 8080), (ORDERS_IP, 9090), (_ELSEWHERE, 8080)])


def _worker(documents: list[dict[str, Any]]) -> Worker:
    async def load() -> Worker:
        serving = Worker()
        serving.wall_clock = NOW.timestamp()
        await serving.put(*documents, services=SERVICES)
        return serving

    return asyncio.run(load())


def _view(documents: list[dict[str, Any]]) -> PolicyView:
    values = {document(value).key: value for value in documents}
    return PolicyView.empty(LIMITS).changed(values, SERVICES, LIMITS)


def _target(destination: tuple[str, int]) -> Target:
    return waypoint("shop", "waypoint", (ServiceRef("shop", "orders"),) if destination == (ORDERS_IP, 8080) else ())


def _check(
    serving: Worker, listener: str, headers: Any, destination: tuple[str, int], fields: dict[str, str]
) -> Decision:
    address, port = destination
    peer = Peer(listener, Transport.LOCAL)
    return serving.check(peer, headers=headers, destination_ip=address, destination_port=port, **fields).decision


def _registered(documents: list[dict[str, Any]]) -> list[str]:
    return [one["metadata"]["name"] for one in documents if one["kind"] == "EnforcementPoint"]


@given(_sets(), st.sampled_from(_LISTENERS), _CALLERS, _DESTINATIONS, _REQUESTS)
@_SETTINGS
def test_each_request_is_in_one_class_which_is_decided_as_check_does(
    documents: list[dict[str, Any]],
    listener: str,
    caller: tuple[Any, str],
    destination: tuple[str, int],
    fields: dict[str, str],
) -> None:
    """Through the whole of Check: caller, quarantine, demands of the calling proxy, target, policies, grants."""
    if listener not in _registered(documents):
        documents = [*documents, point(listener, caller={"listener": listener})]
    headers, principal = caller
    view, target = _view(documents), _target(destination)
    (place,) = (one for one in places_at([view], [target], "http") if f"shop/{listener}" in one.door.points)
    space = RequestSpace([view], target, "http", now=NOW, demands=place.door.demands)
    request = Request(principal=principal, destination_ip=destination[0], port=destination[1], **fields)

    found = [one for one in space.classes(lambda _: True, ranked=True) if space.contains(one, request)]

    decision = _check(_worker(documents), listener, headers, destination, fields)
    assert 1 == len(found)
    (outcome,) = found[0].outcomes
    assert decision.allowed == outcome.allowed
    if outcome.reason.value != "GRANT":  # named even where the request would pass without it
        assert decision.reason == outcome.reason
    asked = {"request": request_to_json(request, view), "enforcementPoint": f"shop/{listener}"}
    explained = answer_question(asked, view, now=NOW)["decision"]
    assert (decision.allowed, decision.reason) == (explained["allowed"], explained["reason"])


@given(_sets(), _sets(), st.sampled_from(_LISTENERS), _CALLERS, _DESTINATIONS, _REQUESTS)
@_SETTINGS
def test_diff_names_each_request_that_check_decides_otherwise(
    before: list[dict[str, Any]],
    after: list[dict[str, Any]],
    listener: str,
    caller: tuple[Any, str],
    destination: tuple[str, int],
    fields: dict[str, str],
) -> None:
    """Also where only the demands of a proxy changed, or the proxy is registered in one of the sets alone."""
    headers, principal = caller
    views, target = (_view(before), _view(after)), _target(destination)
    registered = [listener in _registered(documents) for documents in (before, after)]
    if not any(registered) or (principal is not UNAVAILABLE and target.services and not all(registered)):
        return  # who calls without being registered is not believed; that is no question about policies
    (place,) = (one for one in places_at(views, [target], "http") if f"shop/{listener}" in one.door.points)
    space = RequestSpace(views, target, "http", now=NOW, demands=place.door.demands)
    request = Request(principal=principal, destination_ip=destination[0], port=destination[1], **fields)

    classes = space.classes(lambda leaf: leaf[0].allowed is not leaf[1].allowed, ranked=False)
    found = [one for one in classes if space.contains(one, request)]

    decided = [
        _check(_worker(documents), listener, headers, destination, fields).allowed for documents in (before, after)
    ]
    assert int(decided[0] is not decided[1]) == len(found)


def test_an_unavailable_identity_is_not_the_absence_of_one() -> None:
    """Rules cannot tell them apart, and a copy of the request cannot lose which it is."""
    request = replace(Request(principal=UNAVAILABLE), path="/")

    assert "" == request.principal
    assert "unavailable" == request_to_json(request, _view([]))["identity_state"]
    assert "identity_state" not in request_to_json(Request(path="/"), _view([]))
