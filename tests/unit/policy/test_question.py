"""The question behind `explain`, at a registered enforcement point."""

from __future__ import annotations

from datetime import UTC, datetime

from app.limits import PolicyLimits
from app.policy.policy_view import PolicyView
from app.policy.question import answer_question

POINT = {
    "apiVersion": "gatehouse.dev/v1",
    "kind": "EnforcementPoint",
    "metadata": {"name": "waypoint", "namespace": "shop"},
    "spec": {"kind": "waypoint", "gateway": "waypoint", "requireService": True, "caller": {"listener": "local"}},
}
NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
QUESTION = {"request": {"destination_ip": "10.9.9.9", "port": 80}, "enforcementPoint": "shop/waypoint"}


def test_a_request_to_no_known_service_is_explained_as_a_worker_decides_it() -> None:
    """A waypoint that requires a service denies before any rule is asked, and says what to do."""
    limits = PolicyLimits()
    view = PolicyView.empty(limits).changed({"EnforcementPoint/shop/waypoint": POINT}, {}, limits)

    answer = answer_question(QUESTION, view, now=NOW)

    assert (False, "TARGET_UNKNOWN") == (answer["decision"]["allowed"], answer["decision"]["reason"])
    assert "inventory" in answer["decision"]["hint"]
    assert answer["target"] is None
