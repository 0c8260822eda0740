"""The EnforcementPoint document."""

from __future__ import annotations

from typing import Any

import pytest

from app.errors import AppError
from app.policy.enforcement_point import EnforcementPoint, ReachedBy, from_document
from app.policy.target import PointKind
from tests.support.policies import document, policy

_ID = "spiffe://cluster.local/ns/shop/sa/waypoint"


_WAYPOINT = {"kind": "waypoint", "gateway": "w", "caller": {"listener": "l"}}


def _point(**spec: Any) -> EnforcementPoint:
    value = {
        "apiVersion": "gatehouse.dev/v1",
        "kind": "EnforcementPoint",
        "metadata": {"name": "waypoint", "namespace": "shop"},
        "spec": spec,
    }
    return from_document(document(value))


def test_a_waypoint_on_loopback_requires_identities() -> None:
    """Placement (a): known by its listener; identities are required and the class is Istio's, unless said otherwise."""
    assert EnforcementPoint(
        name="waypoint",
        namespace="shop",
        kind=PointKind.WAYPOINT,
        gateway="waypoint",
        gateway_class="istio-waypoint",
        require_identity=True,
        listener="local",
    ) == _point(kind="waypoint", gateway="waypoint", caller={"listener": "local"})


def test_placements_b_and_c_are_told_apart() -> None:
    """A SPIFFE ID alone means mutual TLS, with `via: ztunnel` it is asserted."""
    direct = _point(kind="waypoint", gateway="w", caller={"spiffeId": _ID})
    behind = _point(kind="waypoint", gateway="w", caller={"spiffeId": _ID, "via": "ztunnel"})

    assert (_ID, False) == (direct.spiffe_id, direct.via_ztunnel)
    assert (_ID, True) == (behind.spiffe_id, behind.via_ztunnel)


def test_how_requests_come_and_what_stands_behind() -> None:
    """By a CUSTOM policy unless a filter is said to be there; workloads are sets of sorted labels, none by default."""
    plain = _point(**_WAYPOINT)
    told = _point(**_WAYPOINT, reachedBy="filter", workloads=[{"b": "2", "a": "1"}, {"app": "x"}])

    assert (ReachedBy.CUSTOM_POLICY, ()) == (plain.reached_by, plain.workloads)
    assert (ReachedBy.FILTER, ((("a", "1"), ("b", "2")), (("app", "x"),))) == (told.reached_by, told.workloads)


def test_a_sidecar_has_labels_and_no_required_identity() -> None:
    """Labels are sorted pairs; a sidecar authenticates itself, so an empty principal means something there."""
    point = _point(kind="sidecar", labels={"b": "2", "a": "1"}, caller={"listener": "local"})

    assert (("a", "1"), ("b", "2")) == point.labels
    assert not point.require_identity


@pytest.mark.parametrize(
    ("spec", "pointer"),
    [
        ({"caller": {"listener": "l"}}, "/spec/kind"),
        ({"kind": "toaster", "caller": {"listener": "l"}}, "/spec/kind"),
        ({"kind": ["waypoint"], "caller": {"listener": "l"}}, "/spec/kind"),
        ({"kind": "waypoint", "caller": {"listener": "l"}}, "/spec/gateway"),
        ({"kind": "sidecar"}, "/spec/caller"),
        ({"kind": "sidecar", "caller": {}}, "/spec/caller"),
        ({"kind": "sidecar", "caller": {"listener": "l", "spiffeId": _ID}}, "/spec/caller"),
        ({"kind": "sidecar", "caller": {"spiffeId": "cluster.local/ns/a/sa/b"}}, "/spec/caller/spiffeId"),
        ({"kind": "sidecar", "caller": {"listener": ""}}, "/spec/caller/listener"),
        ({"kind": "sidecar", "caller": {"listener": "l", "via": "ztunnel"}}, "/spec/caller/via"),
        ({"kind": "sidecar", "caller": {"listener": "l", "port": 1}}, "/spec/caller/port"),
        ({"kind": "sidecar", "caller": {"listener": "l"}, "labels": ["a"]}, "/spec/labels"),
        ({"kind": "sidecar", "caller": {"listener": "l"}, "requireIdentity": 1}, "/spec/requireIdentity"),
        ({"kind": "sidecar", "caller": {"listener": "l"}, "class": "x"}, "/spec/class"),
        ({"kind": "sidecar", "caller": {"listener": "l"}, "reachedBy": "custom"}, "/spec/reachedBy"),
        ({"kind": "sidecar", "caller": {"listener": "l"}, "reachedBy": ["filter"]}, "/spec/reachedBy"),
        ({"kind": "sidecar", "caller": {"listener": "l"}, "workloads": [{"app": "a"}]}, "/spec/workloads"),
        ({**_WAYPOINT, "workloads": {"app": "a"}}, "/spec/workloads"),
        ({**_WAYPOINT, "workloads": []}, "/spec/workloads"),
        ({**_WAYPOINT, "workloads": [{"app": "a"}] * 65}, "/spec/workloads"),
        ({**_WAYPOINT, "workloads": [{"app": "a"}, {}]}, "/spec/workloads/1"),
        ({**_WAYPOINT, "workloads": [{"app": 1}]}, "/spec/workloads/0"),
    ],
)
def test_what_is_wrong_is_named(spec: dict[str, Any], pointer: str) -> None:
    """Unknown fields and wrong values are errors with a pointer."""
    with pytest.raises(AppError) as raised:
        _point(**spec)

    assert [pointer] == [error.pointer for error in raised.value.errors]


def test_another_kind_is_no_enforcement_point() -> None:
    """A policy is not taken for an enforcement point."""
    with pytest.raises(AppError):
        from_document(document(policy()))


def test_a_waypoint_that_goes_by_host_requires_services_unless_told_otherwise() -> None:
    """Clients write the Host: one of no service must not lead past the policies of all services."""
    waypoint = {"kind": "waypoint", "gateway": "w", "serviceFromHost": True, "caller": {"listener": "l"}}

    assert _point(**waypoint).require_service
    assert not _point(**waypoint, requireService=False).require_service


@pytest.mark.parametrize("field", ["serviceFromHost", "targetFromContextExtensions", "requireService"])
def test_only_a_waypoint_is_in_front_of_services(field: str) -> None:
    """At a sidecar or gateway the policies of services do not hold, so there is nothing to find."""
    with pytest.raises(AppError) as caught:
        _point(kind="gateway", caller={"listener": "local"}, **{field: True})
    assert [f"/spec/{field}"] == [error.pointer for error in caught.value.errors]
