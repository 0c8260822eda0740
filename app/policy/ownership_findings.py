"""What is wrong with who enforces what: documents that are enforced twice, or by nobody.

Pure, over a whole set. Errors are what an operator has to mend; nothing here changes a decision.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from app.policy.attached import is_evaluated
from app.policy.authorization_policy import Action
from app.policy.canonical import canonical_json, sha256_hex
from app.policy.compile import CompiledPolicy
from app.policy.document import Document
from app.policy.enforcement_reach import Attachment, EnforcementReach, Reach
from app.policy.finding import SetFinding, Severity
from app.policy.mode import ENFORCED
from app.policy.ownership import (
    CONFIRMED,
    EFFECT,
    PROJECTED_FROM,
    Effect,
    Source,
    is_confirmed,
    pointer_of,
    projected_hash,
)
from app.policy.policy_view import PolicyView
from app.policy.project_plan import plan_projection, reasons_by_document

ENFORCED_TWICE = "ENFORCED_TWICE"
ENFORCED_BY_NOBODY = "ENFORCED_BY_NOBODY"
PARTLY_ENFORCED = "PARTLY_ENFORCED"
NOT_PROJECTABLE = "NOT_PROJECTABLE"
NOT_CONFIRMED = "NOT_CONFIRMED"

_NO_SOURCES: Mapping[str, str] = {}


def ownership_findings(
    view: PolicyView, sources: Mapping[str, str] = _NO_SOURCES, *, waypoints_ask: bool = False
) -> list[SetFinding]:
    """What is enforced twice, by nobody, or cannot be enforced as its document says; in the order of the keys.

    `sources` says by document key who owns it, where that is known. Whether requests come to us at all can only be
    said of a set that registers its enforcement points; without one, nothing is found to be enforced by nobody.
    `waypoints_ask` takes it that every waypoint sends all its requests here, whatever the set says.
    """
    policies = sorted(view.table.policies(), key=lambda policy: policy.key)
    found = [
        *_copies(policies, view),
        *_from_cluster(policies, sources),
        *_projected(policies, view),
        *_unreached(policies, view, waypoints_ask=waypoints_ask),
    ]
    return sorted(dict.fromkeys(found), key=lambda finding: (finding.document, finding.pointer, finding.code))


def _copies(policies: list[CompiledPolicy], view: PolicyView) -> Iterator[SetFinding]:
    """Native copies, known by their annotation or by saying the same, beside a document that is enforced here."""
    observed: dict[str, str] = {}
    enforced = {policy.key: policy for policy in policies if policy.effect is Effect.ENFORCED}
    for policy in policies:
        document = view.documents[policy.key]
        origin = document.annotations.get(PROJECTED_FROM, "")
        if policy.effect is Effect.OBSERVED:
            observed.setdefault(_said(document), policy.key)
            if origin in enforced and origin != policy.key:
                yield _twice(origin, pointer_of(EFFECT), f"its native copy {policy.name} is in force; say projected")
        elif origin:
            yield _twice(
                policy.key,
                pointer_of(PROJECTED_FROM),
                f"this is the native copy of {origin}: leave it to Istio, and remove it here or mark it as observed",
            )
    for key, policy in enforced.items():
        twin = observed.get(_said(view.documents[key]))
        if twin is not None and is_evaluated(policy, view.mesh):
            yield _twice(key, "/spec", f"{twin} says the same and Istio enforces it; remove one of the two")


def _said(document: Document) -> str:
    return sha256_hex(canonical_json({"namespace": document.namespace, "spec": document.spec}))


def _from_cluster(policies: list[CompiledPolicy], sources: Mapping[str, str]) -> Iterator[SetFinding]:
    for policy in policies:
        is_own = policy.action in (Action.ALLOW, Action.DENY) and policy.mode in ENFORCED
        if is_own and policy.effect is not Effect.OBSERVED and sources.get(policy.key) == Source.KUBERNETES:
            yield _twice(
                policy.key,
                pointer_of(EFFECT),
                "it comes from the cluster, where Istio enforces it, and is enforced here as well; say observed",
            )


def _projected(policies: list[CompiledPolicy], view: PolicyView) -> Iterator[SetFinding]:
    marked = [policy for policy in policies if policy.effect is Effect.PROJECTED]
    if not marked:
        return
    reasons = reasons_by_document(plan_projection(view, only_marked=True))
    for policy in marked:
        document = view.documents[policy.key]
        reason = reasons.get(policy.key)
        if reason is not None:
            yield SetFinding(
                policy.key,
                Severity.ERROR,
                reason.pointer,
                NOT_PROJECTABLE,
                f"it is marked as projected and stays enforced here: {reason.why}",
            )
        elif CONFIRMED not in document.annotations:
            yield SetFinding(
                policy.key,
                Severity.WARNING,
                pointer_of(EFFECT),
                NOT_CONFIRMED,
                "it is enforced here until its native copy is in force; then confirm with the annotation "
                f'{CONFIRMED}: "{projected_hash(document)}"',
            )
        elif not is_confirmed(document):
            yield _twice(
                policy.key,
                pointer_of(CONFIRMED),
                "it was changed since it was confirmed: the old copy is in force natively, the new one here; apply "
                f'the new copy and confirm "{projected_hash(document)}"',
            )


def _unreached(policies: list[CompiledPolicy], view: PolicyView, *, waypoints_ask: bool) -> Iterator[SetFinding]:
    """What is enforced here, and whose requests do not come here."""
    reach = EnforcementReach(view, waypoints_ask=waypoints_ask)
    if not len(reach):
        return
    for policy in policies:
        if not is_evaluated(policy, view.mesh) or policy.in_force_natively:
            continue
        for attachment in reach.attachments(policy):
            finding = _unreached_finding(policy, attachment)
            if finding is not None:
                yield finding


def _unreached_finding(policy: CompiledPolicy, attachment: Attachment) -> SetFinding | None:
    pointer = "/spec" if attachment.ref is None else attachment.ref.pointer
    match attachment.reach:
        case Reach.WHOLE:
            return None
        case Reach.PARTLY:
            message = (
                f"the CUSTOM policies at {attachment.point} send only what their rules match; `rules: [{{}}]` is all"
            )
            return SetFinding(policy.key, Severity.WARNING, pointer, PARTLY_ENFORCED, message)
        case Reach.NOT_SENT:
            message = (
                f"no CUSTOM policy of the set sends the requests of {attachment.point} here: add one, or say "
                "reachedBy: filter in its EnforcementPoint"
            )
        case Reach.NO_POINT if attachment.ref is None:
            message = _NO_REF_AND_PROJECTED if policy.effect is Effect.PROJECTED else _NO_REF
        case Reach.NO_POINT:
            message = "no registered enforcement point is where this attaches: register the proxy that asks us"
    return SetFinding(policy.key, Severity.ERROR, pointer, ENFORCED_BY_NOBODY, message)


_NO_REF = (
    "a waypoint never enforces a policy without targetRefs, and no registered sidecar or gateway is selected: give it "
    "targetRefs, or say projected (then ztunnel enforces it) or observed"
)
_NO_REF_AND_PROJECTED = "its native copy is not confirmed to be in force, and no registered proxy enforces it meanwhile"


def _twice(document: str, pointer: str, message: str) -> SetFinding:
    return SetFinding(document, Severity.ERROR, pointer, ENFORCED_TWICE, message)
