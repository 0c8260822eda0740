"""Which policies of a set can be enforced natively, and why the others cannot.

A policy is projected whole or not at all: its rules are alternatives. So are the ALLOW policies of one target, which
therefore are projected together: a native ALLOW policy denies what only an ALLOW policy here speaks of, and passes
what an ALLOW policy that Istio has already would not have passed alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from app.policy.allow_neighbours import AllowNeighbours
from app.policy.authorization_policy import Action
from app.policy.compile import CompiledPolicy
from app.policy.document import (
    AUTHORIZATION_POLICY,
    ENFORCEMENT_POINT,
    MESH,
    PROVIDER,
    QUARANTINE,
    REGO_MODULE,
    REQUEST_AUTHENTICATION,
)
from app.policy.mode import ENFORCED
from app.policy.ownership import EFFECT, Effect, pointer_of
from app.policy.policy_view import PolicyView
from app.policy.project_losses import losses

_CONFIGURATION = frozenset({MESH, ENFORCEMENT_POINT, PROVIDER, REGO_MODULE, REQUEST_AUTHENTICATION})
_NO_NATIVE_FORM = {
    QUARANTINE: "it holds before every policy, also for certificates and nodes; Istio has no word for it",
    "Grant": "it ends by itself and each use is logged; a native policy would stay",
}
_NO_WORD = "Istio's authorization has no word for this kind"


@dataclass(frozen=True, slots=True)
class NotProjected:
    """One reason why a document stays here."""

    document: str  # its key
    pointer: str
    why: str

    def to_json(self) -> dict[str, str]:
        """The members as JSON."""
        return {"document": self.document, "pointer": self.pointer, "why": self.why}


@dataclass(frozen=True, slots=True)
class ProjectionPlan:
    """The policies to write natively, in the order of their keys, and the reasons for all others."""

    policies: tuple[CompiledPolicy, ...]
    not_projected: tuple[NotProjected, ...]


def plan_projection(view: PolicyView, *, only_marked: bool = False) -> ProjectionPlan:
    """What can be projected: of all that is enforced here, or of what is marked `projected` alone."""
    policies = sorted(view.table.policies(), key=lambda policy: policy.key)
    reasons: dict[str, list[NotProjected]] = {}
    for policy in policies:
        found = _own_reasons(policy, view, only_marked=only_marked)
        if found:
            reasons[policy.key] = found
    _add_neighbours(policies, reasons, view)
    others = [
        NotProjected(key, "/kind", _NO_NATIVE_FORM.get(document.kind, _NO_WORD))
        for key, document in view.documents.items()
        if document.kind != AUTHORIZATION_POLICY and document.kind not in _CONFIGURATION
    ]
    every = [*others, *(reason for found in reasons.values() for reason in found)]
    return ProjectionPlan(
        tuple(policy for policy in policies if policy.key not in reasons),
        tuple(sorted(every, key=lambda reason: (reason.document, reason.pointer))),
    )


def _own_reasons(policy: CompiledPolicy, view: PolicyView, *, only_marked: bool) -> list[NotProjected]:
    if policy.effect is Effect.OBSERVED:
        return [NotProjected(policy.key, pointer_of(EFFECT), "it is observed: Istio has it already")]
    if only_marked and policy.effect is not Effect.PROJECTED:
        return [NotProjected(policy.key, "/metadata/annotations", "it is not marked as projected")]
    found = losses(policy.spec, view.mesh, policy.mode)
    return [NotProjected(policy.key, loss.pointer, loss.why) for loss in found]


def _add_neighbours(
    policies: Iterable[CompiledPolicy], reasons: dict[str, list[NotProjected]], view: PolicyView
) -> None:
    """Let ALLOW policies stay that may share a target with one that stays, and so on."""
    allows = [
        policy
        for policy in policies
        if policy.action is Action.ALLOW and (policy.mode in ENFORCED or policy.effect is Effect.OBSERVED)
    ]
    staying = deque(policy for policy in allows if policy.key in reasons)
    candidates = [policy for policy in allows if policy.key not in reasons]
    neighbours = AllowNeighbours(candidates, view.values.of(ENFORCEMENT_POINT).values(), view.mesh)
    while staying:
        policy = staying.popleft()
        for other in neighbours.take(policy):
            reasons[other.key] = [NotProjected(other.key, "/spec/action", _neighbour_reason(policy))]
            staying.append(other)


def _neighbour_reason(policy: CompiledPolicy) -> str:
    if policy.effect is Effect.OBSERVED:
        return f"Istio has the ALLOW policy {policy.name} for the same target, and beside it this one would allow more"
    return f"the ALLOW policy {policy.name} for the same target stays here, and requests would have to match both"


def reasons_by_document(plan: ProjectionPlan) -> Mapping[str, NotProjected]:
    """The first reason of each document that is not projected."""
    first: dict[str, NotProjected] = {}
    for reason in plan.not_projected:
        first.setdefault(reason.document, reason)
    return first
