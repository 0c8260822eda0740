"""Whose a caller is that several EnforcementPoints claim."""

from __future__ import annotations

from typing import Any

import pytest

from app.policy.document import ENFORCEMENT_POINT
from app.policy.finding_codes import Code
from app.policy.lint import lint
from app.policy.point_callers import points_by_caller
from tests.support.snapshots import point
from tests.support.views import view

WAYPOINT = {"spiffeId": "spiffe://cluster.local/ns/shop/sa/waypoint"}
BEHIND = {**WAYPOINT, "via": "ztunnel"}
LOCAL = {"listener": "local"}
FOREIGN = {"spiffeId": "spiffe://cluster.local/gateways/edge"}


def _point(namespace: str, caller: dict[str, Any], name: str = "p") -> dict[str, Any]:
    return point(name, namespace, caller=caller)


@pytest.mark.parametrize(
    ("documents", "namespaces", "refused"),
    [
        ([_point("shop", WAYPOINT), _point("shop", LOCAL, "q")], ["shop", "shop"], []),
        ([_point("aaa", WAYPOINT), _point("shop", WAYPOINT)], ["shop"], ["EnforcementPoint/aaa/p"]),
        ([_point("aaa", BEHIND), _point("shop", BEHIND)], ["shop"], ["EnforcementPoint/aaa/p"]),
        ([_point("aaa", BEHIND), _point("shop", WAYPOINT)], ["aaa", "shop"], []),
        ([_point("aaa", LOCAL), _point("shop", LOCAL)], [], ["EnforcementPoint/aaa/p", "EnforcementPoint/shop/p"]),
        ([_point("aaa", FOREIGN), _point("shop", FOREIGN)], [], ["EnforcementPoint/aaa/p", "EnforcementPoint/shop/p"]),
        ([_point("aaa", WAYPOINT), _point("bbb", WAYPOINT)], [], ["EnforcementPoint/aaa/p", "EnforcementPoint/bbb/p"]),
        ([_point("shop", LOCAL), _point("shop", LOCAL, "q")], ["shop"], ["EnforcementPoint/shop/q"]),
        ([_point("aaa", WAYPOINT)], ["aaa"], []),
    ],
)
def test_no_namespace_takes_the_proxies_of_another(
    documents: list[dict[str, Any]], namespaces: list[str], refused: list[str]
) -> None:
    """The namespace of the SPIFFE ID comes first; what is left between namespaces is nobody's, and lint says so."""
    found = view(*documents)
    held = points_by_caller(found.values.of(ENFORCEMENT_POINT))

    assert namespaces == sorted(one.namespace for one in held.values())
    assert refused == sorted(one.document for one in lint(found) if one.code == Code.SAME_CALLER)
