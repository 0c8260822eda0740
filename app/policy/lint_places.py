"""Doubts about where policies are enforced: layer 7 at ztunnel, side doors around a waypoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from app.policy.attachment import WAYPOINT_CLASS, policy_keys, ref_kind
from app.policy.authorization_policy import Action, RuleSpec
from app.policy.compile import CompiledPolicy
from app.policy.document import ENFORCEMENT_POINT
from app.policy.enforcement_point import EnforcementPoint
from app.policy.finding import Finding, SetFinding, warning
from app.policy.finding_codes import Code
from app.policy.inclusion import is_layer_4
from app.policy.mode import ENFORCED
from app.policy.policy_view import PolicyView
from app.policy.rules import Place
from app.policy.target import PointKind

_IDENTITY = ("principals", "namespaces", "serviceAccounts")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a policy is looked at in: the view, its enforcement points, and the labels of workloads where known."""

    view: PolicyView
    points: tuple[EnforcementPoint, ...]
    workloads: Mapping[str, Sequence[Mapping[str, str]]] | None

    @classmethod
    def of(cls, view: PolicyView, workloads: Mapping[str, Sequence[Mapping[str, str]]] | None) -> Surroundings:
        """The surroundings that a view is."""
        points = view.values.of(ENFORCEMENT_POINT)
        return cls(view, tuple(points[key] for key in sorted(points)), workloads)

    def anonymous_point(self, policy: CompiledPolicy) -> str:
        """The first waypoint that may enforce a policy and lets pass whose sender it cannot tell, empty when none."""
        for point in self.points:
            if point.kind is PointKind.WAYPOINT and not point.require_identity and self._may_enforce(point, policy):
                return f"{point.namespace}/{point.name}"
        return ""

    def _may_enforce(self, point: EnforcementPoint, policy: CompiledPolicy) -> bool:
        for ref in policy.spec.target_refs:
            match ref_kind(ref):
                case "Service" | "ServiceEntry":
                    return True  # any waypoint may handle it
                case "Gateway":
                    if (point.namespace, point.gateway) == (policy.namespace, ref.name):
                        return True
                case "GatewayClass":
                    if policy.namespace == self.view.mesh.root_namespace and ref.name == WAYPOINT_CLASS:
                        return True
                case _:
                    pass
        return False

    @property
    def is_ambient(self) -> bool:
        """Whether ztunnels may enforce what no waypoint does: unless every registered proxy is of another kind."""
        kinds = {point.kind for point in self.points}
        return not kinds or bool(kinds & {PointKind.WAYPOINT, PointKind.ZTUNNEL})


def place_doubts(policy: CompiledPolicy, around: Surroundings) -> Iterator[Finding]:
    """What ztunnel does not enforce as it is written."""
    if policy.spec.target_refs or not around.is_ambient or policy.action not in (Action.ALLOW, Action.DENY):
        return
    for index, rule in enumerate(policy.spec.rules):
        if not is_layer_4(rule):
            yield warning(rule.pointer, _at_ztunnel(policy, index), Code.L7_AT_ZTUNNEL)


def _at_ztunnel(policy: CompiledPolicy, index: int) -> str:
    if policy.action is Action.ALLOW:
        return "ztunnel drops this ALLOW rule, because it asks about layer 7: attach the policy by targetRefs"
    rule_id = f"-rule[{index}]"
    if any(rule.id.endswith(rule_id) for rule in policy.rules(Place.ZTUNNEL)):
        return "ztunnel leaves out what this DENY rule asks about layer 7 and denies more: attach it by targetRefs"
    return "this DENY rule has no effect at ztunnel, which knows no layer 7: attach the policy by targetRefs"


def waypoint_bypasses(policies: Sequence[CompiledPolicy], around: Surroundings) -> Iterator[SetFinding]:
    """Services with policies at a waypoint, in namespaces whose ztunnels admit others than the waypoint."""
    if not around.is_ambient:
        return
    closed = {policy.namespace for policy in policies if _admits_only_named_peers(policy)}
    if around.view.mesh.root_namespace in closed:
        return
    told: set[tuple[str, str]] = set()
    for policy in policies:
        if policy.namespace in closed or policy.mode not in ENFORCED or policy.action is Action.AUDIT:
            continue
        for ref in policy.spec.target_refs:
            place = (policy.namespace, ref.name)
            if ref_kind(ref) != "Service" or place in told:
                continue
            told.add(place)
            message = (
                f"whoever reaches the pods of {ref.name} without the waypoint meets no policy: add an ALLOW policy "
                f"without targetRefs in {policy.namespace} that admits the waypoint's service account only "
                "(`gatehouse policy project` writes it)"
            )
            yield SetFinding.about(policy.key, warning(ref.pointer, message, Code.WAYPOINT_BYPASS))


def _admits_only_named_peers(policy: CompiledPolicy) -> bool:
    if policy.spec.target_refs or policy.action is not Action.ALLOW or policy.mode not in ENFORCED:
        return False
    return all(_names_peers(rule) for rule in policy.spec.rules if is_layer_4(rule))


def _names_peers(rule: RuleSpec) -> bool:
    return bool(rule.sources) and all(
        any(field.values and field.name in _IDENTITY and "*" not in field.values for field in clause)
        for clause in rule.sources
    )


def several_providers(policies: Sequence[CompiledPolicy], around: Surroundings) -> Iterator[SetFinding]:
    """Targets of CUSTOM policies with different providers, where the mesh allows one."""
    mesh = around.view.mesh
    if mesh.multiple_custom_providers:
        return
    seen: dict[str, tuple[str, str]] = {}
    for policy in policies:
        provider = policy.spec.provider or ""
        if policy.action is not Action.CUSTOM or provider in mesh.own_providers or policy.mode not in ENFORCED:
            continue
        for key in policy_keys(policy.namespace, policy.spec):
            name, first = seen.setdefault(key, (policy.name, provider))
            if first != provider:
                message = (
                    f"{name} asks another provider, {first}, for the same target, and then everything that either "
                    "matches is denied: set enableMultipleCustomProviders in the Mesh, or use one provider"
                )
                yield SetFinding.about(policy.key, warning("/spec/provider/name", message, Code.SEVERAL_PROVIDERS))
                break
