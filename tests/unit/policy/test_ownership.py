"""Who enforces a policy: what its annotations say, and what comes of it in a decision."""

from __future__ import annotations

from typing import Any

import pytest

from app.policy.confirm import InForce, compare_with_cluster
from app.policy.document import Document
from app.policy.explain import explain
from app.policy.finding import Severity
from app.policy.mesh import MeshConfig
from app.policy.ownership import (
    CONFIRMED,
    CONTENT_HASH,
    EFFECT,
    PROJECTED_FROM,
    Effect,
    effect_of,
    effect_of_content,
    projected_hash,
)
from app.policy.validate import validate
from tests.support.policies import (
    HARDENED,
    ISTIO,
    LIMITS,
    SIDECAR,
    WAYPOINT,
    ask,
    document,
    policy,
    request,
    source,
    table,
    to,
)

_ORDERS = {"targetRefs": [{"kind": "Service", "group": "", "name": "orders"}]}
_DENY_GUEST = policy(source(principals=["cluster.local/ns/shop/sa/web"]), action="DENY", name="guest")


def _with(value: dict[str, Any], **annotations: str) -> dict[str, Any]:
    words = {EFFECT if key == "effect" else CONFIRMED: text for key, text in annotations.items()}
    return {**value, "metadata": {**value["metadata"], "annotations": words}}


def _confirmed(value: dict[str, Any]) -> dict[str, Any]:
    return _with(value, effect="projected", confirmed=projected_hash(document(value)))


def test_a_policy_is_enforced_unless_it_says_otherwise() -> None:
    """No annotation, and a word that is none, mean enforced: nothing is lifted by a mistake."""
    assert Effect.ENFORCED is effect_of({})
    assert Effect.ENFORCED is effect_of({EFFECT: "Observed"})
    assert Effect.OBSERVED is effect_of({EFFECT: "observed"})
    assert not ask(table(_with(_DENY_GUEST, effect="observd"))).allowed


def test_an_observed_policy_is_no_part_of_a_decision() -> None:
    """Istio enforces it: neither its DENY counts here, nor that there is an ALLOW policy."""
    allow = policy(to(paths=["/other"]), name="allow")

    assert not ask(table(_DENY_GUEST)).allowed
    assert ask(table(_with(_DENY_GUEST, effect="observed"))).allowed
    assert not ask(table(allow)).allowed
    assert ask(table(_with(allow, effect="observed"))).allowed


def test_explain_shows_an_observed_policy() -> None:
    """It is considered, and marked as what is not enforced here."""
    explanation = explain(table(_with(_DENY_GUEST, effect="observed")), SIDECAR, request())

    (rule,) = explanation.rules
    assert (True, False, Effect.OBSERVED) == (rule.matched, rule.enforced, rule.effect)
    assert "observed" == rule.to_json()["effect"]


def test_a_projected_policy_is_enforced_here_until_it_is_confirmed() -> None:
    """A DENY that is not applied natively yet is not enforced by nobody."""
    assert not ask(table(_with(_DENY_GUEST, effect="projected"))).allowed
    assert not ask(table(_with(_DENY_GUEST, effect="projected", confirmed="0" * 64))).allowed
    assert ask(table(_confirmed(_DENY_GUEST))).allowed


def test_a_confirmation_holds_for_the_content_that_was_confirmed() -> None:
    """A changed document is enforced here again, as its native copy is an old one."""
    confirmed = _confirmed(_DENY_GUEST)
    changed = {**confirmed, "spec": policy({}, action="DENY")["spec"]}

    assert ask(table(confirmed)).allowed
    assert not ask(table(changed)).allowed


def _at_waypoint(*values: dict[str, Any], mesh: MeshConfig = HARDENED, path: str = "/", method: str = "GET") -> bool:
    return ask(table(*values, mesh=mesh), path, target=WAYPOINT, method=method).allowed


def test_a_confirmation_does_not_lift_what_a_native_copy_would_weaken() -> None:
    """Paths are compared exactly by Istio, so the policy stays here; without hardened matching nothing is lost."""
    deny = _confirmed(policy(to(paths=["/admin"]), action="DENY", **_ORDERS))

    assert not _at_waypoint(deny, path="/admin")
    assert _at_waypoint(deny, path="/admin", mesh=ISTIO)


def test_allow_policies_of_a_target_leave_together() -> None:
    """While one of them is enforced here, the confirmed one is as well: they are alternatives."""
    confirmed = _confirmed(policy(to(methods=["GET"]), name="a", **_ORDERS))
    other = policy(to(methods=["POST"]), name="b", **_ORDERS)

    assert _at_waypoint(confirmed, method="PUT")  # Istio decides it now
    assert _at_waypoint(confirmed, other, method="GET")
    assert not _at_waypoint(confirmed, other, method="PUT")
    assert _at_waypoint(confirmed, _confirmed(other), method="PUT")


def test_allow_policies_stay_beside_an_observed_one() -> None:
    """Natively the two are alternatives, and what only the observed one allows was denied here before."""
    confirmed = _confirmed(policy(to(methods=["GET"]), name="a", **_ORDERS))
    observed = _with(policy({}, name="b", **_ORDERS), effect="observed")

    assert not _at_waypoint(confirmed, observed, method="PUT")


@pytest.mark.parametrize(
    ("annotations", "pointer"),
    [
        ({EFFECT: "shadow"}, "/metadata/annotations/gatehouse.dev~1effect"),
        ({CONFIRMED: "0" * 64}, "/metadata/annotations/gatehouse.dev~1in-force-natively"),
        ({EFFECT: "enforced", CONFIRMED: "x"}, "/metadata/annotations/gatehouse.dev~1in-force-natively"),
    ],
)
def test_a_bad_word_is_an_error(annotations: dict[str, str], pointer: str) -> None:
    """A word that is not known, or a confirmation of nothing, is refused where it stands."""
    findings = validate(document(policy({}, annotations=annotations)), LIMITS)

    assert [pointer] == [found.pointer for found in findings if found.severity is Severity.ERROR]


def test_other_kinds_have_no_effect() -> None:
    """A Mesh document with an effect is refused, and none is shown of it."""
    mesh = {
        "apiVersion": "gatehouse.dev/v1",
        "kind": "Mesh",
        "metadata": {"name": "mesh", "annotations": {EFFECT: "observed"}},
    }

    assert [Severity.ERROR] == [found.severity for found in validate(document(mesh), LIMITS)]
    assert "" == effect_of_content(mesh)
    assert "projected" == effect_of_content(_with(_DENY_GUEST, effect="projected"))


def test_the_hash_is_over_what_a_native_copy_says() -> None:
    """Labels and annotations do not change it; namespace, name and spec do."""
    plain = projected_hash(document(_DENY_GUEST))

    assert plain == projected_hash(document(_with(_DENY_GUEST, effect="projected")))
    assert plain != projected_hash(document(policy(action="DENY", name="guest")))
    assert plain != projected_hash(document({**_DENY_GUEST, "metadata": {"name": "guest", "namespace": "x"}}))


def _copy(value: dict[str, Any], **annotations: str) -> Document:
    """A native copy, as a cluster holds it."""
    words = {PROJECTED_FROM: document(value).key, CONTENT_HASH: "not looked at"}
    words |= {key.replace("_", "/", 1).replace("_", "-"): text for key, text in annotations.items()}
    return document({**value, "metadata": {**value["metadata"], "annotations": words, "uid": "u"}})


def test_what_the_cluster_holds_is_confirmed() -> None:
    """A copy with the same content confirms, over an older confirmation too; what says so already does not change."""
    marked = _with(_DENY_GUEST, effect="projected", confirmed="0" * 64)

    (found,) = compare_with_cluster([document(marked)], [_copy(_DENY_GUEST)])
    (again,) = compare_with_cluster([document(dict(found.content))], [_copy(_DENY_GUEST)])

    assert (InForce.IN_FORCE, True, False) == (found.state, found.changes, again.changes)
    assert _confirmed(_DENY_GUEST)["metadata"] == found.content["metadata"]
    assert ask(table(dict(found.content))).allowed


def test_what_the_cluster_does_not_hold_is_not_confirmed() -> None:
    """A copy that is gone, says something else or is a dry run takes the confirmation away."""
    confirmed = document(_confirmed(_DENY_GUEST))
    other = {**_DENY_GUEST, "spec": policy({}, action="DENY")["spec"]}

    for copies, state in (
        ([], InForce.MISSING),
        ([document(_DENY_GUEST)], InForce.MISSING),  # of the same name, and not our copy
        ([_copy(other)], InForce.DIFFERENT),
        ([_copy(_DENY_GUEST, **{"istio.io_dry_run": "true"})], InForce.DRY_RUN),
    ):
        (found,) = compare_with_cluster([confirmed], copies)
        assert (state, True) == (found.state, found.changes)
        assert not ask(table(dict(found.content))).allowed


def test_only_projected_documents_are_confirmed() -> None:
    """What is enforced or observed is not compared."""
    values = [_DENY_GUEST, _with({**_DENY_GUEST, "metadata": {"name": "o", "namespace": "shop"}}, effect="observed")]

    assert [] == compare_with_cluster(map(document, values), [_copy(_DENY_GUEST)])


def test_what_is_tried_out_does_not_leave() -> None:
    """Only we try a policy out: one that is to be removed stays here although it is confirmed."""
    words = {
        EFFECT: "projected",
        CONFIRMED: projected_hash(document(_DENY_GUEST)),
        "gatehouse.dev/mode": "shadow-removed",
    }

    assert not ask(table({**_DENY_GUEST, "metadata": {**_DENY_GUEST["metadata"], "annotations": words}})).allowed


def test_an_observed_policy_is_not_tried_out() -> None:
    """What Istio enforces is no part of the proposed set either, so there is no shadow verdict of it."""
    words = {EFFECT: "observed", "gatehouse.dev/mode": "shadow"}
    rules = table({**_DENY_GUEST, "metadata": {**_DENY_GUEST["metadata"], "annotations": words}})

    assert None is explain(rules, SIDECAR, request()).shadow
