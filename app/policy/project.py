"""Native documents: what Istio itself can enforce of a set, written as `kubectl apply` wants it.

The same set gives the same bytes. Each document is marked with where it comes from, with the revision and with the hash
of its content; `kubectl get -l app.kubernetes.io/managed-by=gatehouse` finds them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from app.policy.authorization_policy import Action
from app.policy.compile import CompiledPolicy
from app.policy.document import ENFORCEMENT_POINT, Document
from app.policy.enforcement_point import EnforcementPoint
from app.policy.finding import SetFinding, Severity
from app.policy.mode import ENFORCED
from app.policy.ownership import CONTENT_HASH, OWN_ANNOTATIONS, PROJECTED_FROM, REVISION, content_hash
from app.policy.ownership_findings import ownership_findings
from app.policy.policy_view import PolicyView
from app.policy.project_plan import NotProjected, plan_projection
from app.policy.project_waypoints import ask_policies, only_from_waypoints, waypoint_principal, waypoints_of

MANAGED_BY = "app.kubernetes.io/managed-by"
BYPASS_OPEN = "BYPASS_OPEN"
WAYPOINT_ASSUMED = "WAYPOINT_ASSUMED"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectionOptions:
    """What to write: also the CUSTOM policies, only what is marked, and which revision it is marked with."""

    revision: int | None = None
    with_custom: bool = False
    only_marked: bool = False


_DEFAULTS = ProjectionOptions()
_NO_SOURCES: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """The native documents, the reasons for what is not among them, and what is wrong with the set."""

    documents: tuple[Mapping[str, Any], ...]
    not_projected: tuple[NotProjected, ...]
    findings: tuple[SetFinding, ...]

    def to_json(self) -> dict[str, Any]:
        """The members as JSON."""
        return {
            "documents": list(self.documents),
            "notProjected": [reason.to_json() for reason in self.not_projected],
            "findings": [finding.to_json() for finding in self.findings],
        }


def project(
    view: PolicyView, options: ProjectionOptions = _DEFAULTS, sources: Mapping[str, str] = _NO_SOURCES
) -> Projection:
    """Write a set natively as far as that is never weaker than it is here.

    `sources` says by document key who owns it, where that is known.
    """
    plan = plan_projection(view, only_marked=options.only_marked)
    written = [_native(view.documents[policy.key]) for policy in plan.policies]
    written.extend(only_from_waypoints(view))
    if options.with_custom:
        written.extend(ask_policies(view))
    by_place = {(value["metadata"]["namespace"], value["metadata"]["name"]): value for value in reversed(written)}
    # The CUSTOM policies that are written are taken to be applied, like everything else that is written.
    findings = ownership_findings(view, sources, waypoints_ask=options.with_custom)
    return Projection(
        documents=tuple(_marked(value, options) for _, value in sorted(by_place.items())),
        not_projected=plan.not_projected,
        findings=(*findings, *_side_doors(view), *_assumed(view)),
    )


def _native(document: Document) -> dict[str, Any]:
    """A document as it was written, without what only Gatehouse understands."""
    kept = {key: value for key, value in document.annotations.items() if not key.startswith(OWN_ANNOTATIONS)}
    return {
        "apiVersion": document.api_version,
        "kind": document.kind,
        "metadata": {
            "name": document.name,
            "namespace": document.namespace,
            "labels": dict(document.metadata.get("labels") or {}),
            "annotations": {**kept, PROJECTED_FROM: document.key},
        },
        "spec": document.spec,
    }


def _marked(value: Mapping[str, Any], options: ProjectionOptions) -> dict[str, Any]:
    metadata = value["metadata"]
    annotations = {**metadata.get("annotations", {}), CONTENT_HASH: content_hash(value)}
    if options.revision is not None:
        annotations[REVISION] = str(options.revision)
    labels = {**metadata.get("labels", {}), MANAGED_BY: "gatehouse"}
    return {**value, "metadata": {**metadata, "labels": labels, "annotations": annotations}}


def _side_doors(view: PolicyView) -> Iterator[SetFinding]:
    """ALLOW policies of ztunnel that let others than the waypoint in, and so open what the waypoint closes."""
    plain = [
        policy
        for policy in view.table.policies()
        if policy.action is Action.ALLOW
        and policy.mode in ENFORCED
        and not policy.spec.target_refs
        and policy.spec.rules
    ]
    for point in waypoints_of(view):
        admitted = waypoint_principal(point, view.mesh)
        for policy in sorted(plain, key=lambda policy: policy.key):
            if policy.namespace not in (point.namespace, view.mesh.root_namespace):
                continue
            if not _may_select(policy, point) or _admits_only(policy, admitted):
                continue
            yield SetFinding(
                policy.key,
                Severity.WARNING,
                "/spec/rules",
                BYPASS_OPEN,
                f"where ztunnel enforces this, it lets callers reach workloads behind {point.namespace}/"
                f"{point.gateway} without passing the waypoint; give it targetRefs, or a selector of other workloads",
            )


def _may_select(policy: CompiledPolicy, point: EnforcementPoint) -> bool:
    """Whether some workload behind the waypoint may carry the labels that a policy selects."""
    wanted = policy.spec.selector or {}
    return not point.workloads or any(
        all(dict(labels).get(label, value) == value for label, value in wanted.items()) for labels in point.workloads
    )


def _admits_only(policy: CompiledPolicy, principal: str) -> bool:
    """Whether every rule asks for exactly this principal in every source."""
    return all(
        rule.sources
        and all(
            any(field.name == "principals" and field.values == (principal,) for field in clause)
            for clause in rule.sources
        )
        for rule in policy.spec.rules
    )


def _assumed(view: PolicyView) -> Iterator[SetFinding]:
    """Waypoints whose SPIFFE ID the set does not say."""
    for point in waypoints_of(view):
        if not point.spiffe_id:
            yield SetFinding(
                f"{ENFORCEMENT_POINT}/{point.namespace}/{point.name}",
                Severity.WARNING,
                "/spec/caller",
                WAYPOINT_ASSUMED,
                f"the waypoint's SPIFFE ID is not said; {waypoint_principal(point, view.mesh)} is written, which is "
                "the account that Istio makes for a waypoint of this name: compare it before you apply",
            )
