"""Laws of where a request goes: memory changes nothing, and a client changes nothing."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from app.decision.attributes import CheckAttributes
from app.decision.state import DecisionState
from app.decision.target import SERVICE_EXTENSION, resolve_target
from app.policy.target import Target
from tests.support.decisions import ORDERS_IP, SERVICES, Worker
from tests.support.snapshots import point, policy

_POINTS = {
    "plain": {"kind": "waypoint", "gateway": "w"},
    "strict": {"kind": "waypoint", "gateway": "w", "requireService": True},
    "extended": {"kind": "waypoint", "gateway": "w", "targetFromContextExtensions": True},
    "by-host": {"kind": "waypoint", "gateway": "w", "serviceFromHost": True, "targetFromContextExtensions": True},
    "sidecar": {"kind": "sidecar", "labels": {"app": "orders"}},
    "gateway": {"kind": "gateway", "gateway": "g"},
}


def _state() -> DecisionState:
    async def load() -> DecisionState:
        serving = Worker()
        documents = [point(name, caller={"listener": name}, **spec) for name, spec in _POINTS.items()]
        chosen = policy("chosen", namespace="chosen", rules=[{}], selector={"matchLabels": {"a": "b"}})
        await serving.put(*documents, chosen, services=SERVICES)
        assert serving.holder.state is not None
        return serving.holder.state

    return asyncio.run(load())


_STATE = _state()

_ATTRIBUTES = st.fixed_dictionaries(
    {
        "destination_ip": st.sampled_from([ORDERS_IP, f"::ffff:{ORDERS_IP}", "10.9.9.9", ""]),
        "destination_port": st.sampled_from([8080, 0, 1]),
        "host": st.sampled_from(["orders.shop.svc.cluster.local", "ORDERS.shop.svc.cluster.local:8080", "x", ""]),
        "destination_principal": st.sampled_from(
            ["", "x", *(f"spiffe://cluster.local/ns/{ns}/sa/a" for ns in ("shop", "bank", "chosen"))]
        ),
        "context_extensions": st.sampled_from(
            [None, {}, {SERVICE_EXTENSION: "shop/orders"}, {SERVICE_EXTENSION: "shop/x"}, {"service": "shop/orders"}]
        ),
    }
)
_CALLERS = st.sampled_from([*_POINTS, None])


def _resolve(caller: str | None, attributes: dict[str, Any]) -> Target | None:
    found = _STATE.points.by_listener[caller] if caller else None
    return resolve_target(_STATE, found, CheckAttributes(**attributes))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(_CALLERS, _ATTRIBUTES), min_size=2, max_size=8))
def test_what_is_remembered_is_what_is_found(requests: list[tuple[str | None, dict[str, Any]]]) -> None:
    """Whatever was asked before, the answer is that of an empty memory."""
    fresh = []
    for caller, attributes in requests:
        _STATE.targets.clear()
        fresh.append(_resolve(caller, attributes))
    _STATE.targets.clear()
    assert fresh == [_resolve(caller, attributes) for caller, attributes in requests]
    assert fresh == [_resolve(caller, attributes) for caller, attributes in requests]


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([name for name in [*_POINTS, None] if name != "by-host"]),
    _ATTRIBUTES,
    st.text(max_size=40),
    st.dictionaries(
        st.sampled_from(["host", ":authority", "x-forwarded-host", "x-envoy-original-path"]), st.just(("x",))
    ),
)
def test_what_a_client_writes_does_not_say_where_it_goes(
    caller: str | None, attributes: dict[str, Any], host: str, headers: dict[str, tuple[str, ...]]
) -> None:
    """Neither Host nor any other header, except at a point that says so."""
    expected = _resolve(caller, attributes)
    assert expected == _resolve(caller, {**attributes, "host": host, "headers": headers, "path": f"/{host}"})


@settings(max_examples=200, deadline=None)
@given(_CALLERS, _ATTRIBUTES)
def test_a_known_address_is_never_overruled(caller: str | None, attributes: dict[str, Any]) -> None:
    """Neither extensions nor certificates nor Host take a request away from the service that it is sent to."""
    found = _resolve(caller, {**attributes, "destination_ip": ORDERS_IP, "destination_port": 8080})
    if caller in ("sidecar", "gateway"):
        assert found is None or found.services == ()
    else:
        assert found is not None
        assert ["orders"] == [service.name for service in found.services]
