"""Where questions about everywhere go."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from app.errors import AppError
from app.policy.broad_question import answer_reach
from app.policy.known_targets import known_targets, targets_of_service
from app.policy.policy_view import PolicyView, view_of_documents
from app.policy.target import ServiceRef, Target
from tests.support.policies import LIMITS, policy

NOW = datetime(2030, 1, 1, tzinfo=UTC)
SERVICE = {"kind": "Service", "group": "", "name": "orders"}
GATEWAY = {"kind": "Gateway", "group": "gateway.networking.k8s.io", "name": "wp"}


def point(name: str, kind: str = "waypoint", namespace: str = "shop", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "gatehouse.dev/v1",
        "kind": "EnforcementPoint",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"kind": kind, "gateway": name, "caller": {"listener": name}, **spec},
    }


def view(*documents: dict[str, Any]) -> PolicyView:
    return view_of_documents(documents, None, LIMITS)


def words(targets: list[Target]) -> list[str]:
    return [
        " ".join(
            (
                target.kind.value,
                f"{target.namespace}/{target.gateway_name}",
                *(service.name for service in target.services),
                *(f"{name}={value}" for name, value in target.labels),
            )
        )
        for target in targets
    ]


def test_a_service_is_behind_the_waypoints_of_its_namespace() -> None:
    """Registered or named by a policy; without any, behind one of the usual name."""
    named = view(policy({}, targetRefs=[SERVICE], name="a"), policy({}, targetRefs=[GATEWAY], name="b"))

    assert ["waypoint shop/waypoint orders"] == words(known_targets([view(policy({}, targetRefs=[SERVICE]))]))
    assert ["waypoint shop/wp", "waypoint shop/wp orders"] == sorted(words(known_targets([named])))
    assert ["waypoint shop/wp orders"] == words(targets_of_service([named], (ServiceRef("shop", "orders"),)))


def test_a_service_without_a_waypoint_is_behind_each_known_one() -> None:
    """A waypoint may serve other namespaces."""
    known = view(point("edge", namespace="infra"), policy({}, targetRefs=[SERVICE]))

    assert ["waypoint infra/edge", "waypoint infra/edge orders"] == sorted(words(known_targets([known])))


def test_a_waypoint_that_requires_a_service_is_not_asked_without_one() -> None:
    """It would deny there before any policy."""
    known = view(point("wp", requireService=True), policy({}, targetRefs=[SERVICE]))

    question = {"request": {"protocol": "http"}}
    everywhere = answer_reach(question, known, now=NOW)
    asked = answer_reach(
        {**question, "target": {"kind": "waypoint", "namespace": "shop", "gateway_name": "wp"}}, known, now=NOW
    )

    assert [["orders"]] == [[one["name"] for one in place["target"]["services"]] for place in everywhere["places"]]
    assert ["TARGET_UNKNOWN", "IDENTITY_UNAVAILABLE"] == [
        one["reason"] for place in asked["places"] for one in place["classes"]
    ]


def test_workloads_have_the_labels_that_policies_select_alone_and_together() -> None:
    """At a sidecar and at ztunnel; labels that exclude each other are not put together."""
    known = view(
        *(
            policy({}, name=f"p{number}", selector={"matchLabels": labels})
            for number, labels in enumerate([{"app": "a"}, {"app": "b"}, {"tier": "1"}])
        )
    )

    found = words(known_targets([known]))

    assert {"sidecar", "ztunnel"} == {word.split()[0] for word in found}
    assert ["", " app=a", " app=a tier=1", " app=b", " app=b tier=1", " tier=1"] == sorted(
        word.removeprefix("sidecar shop/") for word in found if word.startswith("sidecar")
    )


def test_policies_of_the_root_namespace_concern_every_namespace() -> None:
    """Their selectors join those of each namespace."""
    root = policy({}, name="root", namespace="istio-system", selector={"matchLabels": {"app": "a"}})

    assert "sidecar shop/ app=a" in words(known_targets([view(root, policy({}, name="p"))]))


def test_too_many_labels_are_said() -> None:
    """With what to do."""
    many = [policy({}, name=f"p{number}", selector={"matchLabels": {f"l{number}": "x"}}) for number in range(10)]

    with pytest.raises(AppError, match="--at and --label"):
        known_targets([view(*many)])


def test_registered_proxies_of_other_kinds_are_asked_as_they_are() -> None:
    """A gateway with its labels."""
    known = view(point("gw", "gateway", labels={"app": "gw"}))

    assert ["gateway shop/gw app=gw"] == words(known_targets([known]))
