"""What proxies demand before any policy, and which proxies of a target do."""

from __future__ import annotations

from typing import Any

import pytest

from app.errors import AppError
from app.policy.cases import run_case
from app.policy.demands import BY_DEFAULT, NO_DEMANDS, UNREGISTERED, Demands, Doors
from app.policy.known_targets import waypoint
from app.policy.policy_view import PolicyView, view_of_documents
from app.policy.request import UNAVAILABLE
from app.policy.target import ServiceRef
from tests.support.policies import LIMITS, SIDECAR
from tests.support.snapshots import point

WAYPOINT = waypoint("shop")


def view(*documents: dict[str, Any]) -> PolicyView:
    return view_of_documents(documents, None, LIMITS)


def doors(*views: PolicyView, target: Any = WAYPOINT, named: str = "") -> list[tuple[tuple[str, ...], Any]]:
    return [(door.points, door.demands) for door in Doors(views).of(target, named)]


def test_proxies_that_demand_the_same_are_one_door() -> None:
    """Those of another waypoint, and of another kind, are none."""
    points = [
        point("a", caller={"listener": "a"}),
        point("b", caller={"listener": "b"}),
        point("lax", caller={"listener": "c"}, requireIdentity=False, requireService=True),
        point("other", gateway="other", caller={"listener": "d"}),
        point("side", kind="sidecar", requireIdentity=True, caller={"listener": "e"}),
    ]

    found = doors(view(*points))

    assert [(("shop/a", "shop/b"), (BY_DEFAULT,)), (("shop/lax",), (Demands(service=True),))] == found
    assert [(("shop/lax",), (Demands(service=True),))] == doors(view(*points), named="shop/lax")
    assert [((), (NO_DEMANDS,))] == doors(view(*points), target=SIDECAR)


def test_a_waypoint_that_is_registered_in_one_set_only_is_unregistered_in_the_other() -> None:
    """In none it is taken to be registered with what holds without a word."""
    registered = view(point("a", caller={"listener": "a"}))

    assert [(("shop/a",), (UNREGISTERED, BY_DEFAULT))] == doors(view(), registered)
    assert [((), (BY_DEFAULT, BY_DEFAULT))] == doors(view(), view())


def test_a_proxy_whose_caller_is_nobodys_counts_for_nothing() -> None:
    """A worker does not know it either: two namespaces claim its listener."""
    contested = [
        point("a", caller={"listener": "l"}, requireIdentity=False),
        point("b", "bank", caller={"listener": "l"}),
    ]

    assert [((), (BY_DEFAULT,))] == doors(view(*contested))


def test_a_refusal_says_what_is_missing() -> None:
    """The identity first; an unauthenticated caller has one as far as this goes."""
    both = Demands(identity=True, service=True)
    orders = waypoint("shop", services=(ServiceRef("shop", "orders"),))
    asked = [(WAYPOINT, UNAVAILABLE), (WAYPOINT, ""), (orders, UNAVAILABLE), (orders, ""), (None, "")]

    refusals = [both.refusal(target, principal) for target, principal in asked]

    assert ["IDENTITY_UNAVAILABLE", "TARGET_UNKNOWN", "IDENTITY_UNAVAILABLE", None, "TARGET_UNKNOWN"] == [
        refusal and refusal.reason.value for refusal in refusals
    ]
    assert NO_DEMANDS.refusal(WAYPOINT, UNAVAILABLE) is None


@pytest.mark.parametrize(("kind", "got"), [("waypoint", "deny"), ("sidecar", "allow")])
def test_a_case_may_say_that_an_identity_is_unavailable(kind: str, got: str) -> None:
    """A waypoint demands one; at a sidecar no certificate means no identity."""
    request = {"identity_state": "unavailable"}
    case = {"expected": got, "workload": {"kind": kind, "namespace": "shop"}, "policies": [], "request": request}

    assert got == run_case(case).got
    with pytest.raises(AppError, match="source_principal"):
        run_case({**case, "request": {**request, "source_principal": "spiffe://cluster.local/ns/a/sa/b"}})
