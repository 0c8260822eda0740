"""Doubts about names: targets, workloads, providers and authentications that the set and the inventory do not have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from app.policy.asked_user import asks_for_claims
from app.policy.attachment import WAYPOINT_CLASS, ref_kind
from app.policy.authorization_policy import Action, FieldTest, TargetRef
from app.policy.compile import CompiledPolicy
from app.policy.document import PROVIDER, REQUEST_AUTHENTICATION
from app.policy.finding import Finding, SetFinding, error, warning
from app.policy.finding_codes import Code
from app.policy.lint_places import Surroundings
from app.policy.provider import provider_key
from app.policy.target import PointKind

_REGISTRIES = {"Service": "Kubernetes", "ServiceEntry": "External"}


def unknown_names(policy: CompiledPolicy, around: Surroundings) -> Iterator[Finding]:
    """Attaching to, or asking for, what nobody knows; each only where something is known about such things."""
    if not policy.spec.target_refs:
        yield from _selector_doubts(policy, around)
    for ref in policy.spec.target_refs:
        message = _target(ref, policy, around)
        if message:
            yield warning(f"{ref.pointer}/name", message, Code.TARGET_UNKNOWN)
    yield from _provider_doubts(policy, around)
    yield from _claim_doubts(policy, around)


def providers_named_as_ours(_: Sequence[CompiledPolicy], around: Surroundings) -> Iterator[SetFinding]:
    """Providers that nobody ever asks, because CUSTOM policies with their name are how a request came to us."""
    for name in around.view.mesh.own_providers:
        key = provider_key(name)
        if key in around.view.values.of(PROVIDER):
            message = (
                f"{name} is one of the mesh's ownProviders, so a CUSTOM policy that names it is how a request came "
                "here, and this is never asked: give it another name, here and in the policies that mean it"
            )
            yield SetFinding.about(key, error("/metadata/name", message, Code.PROVIDER_NEVER_ASKED))


def _provider_doubts(policy: CompiledPolicy, around: Surroundings) -> Iterator[Finding]:
    name = policy.spec.provider
    if policy.action is not Action.CUSTOM or not name or name in around.view.mesh.own_providers:
        return
    if provider_key(name) not in around.view.values.of(PROVIDER):
        yield warning(
            "/spec/provider/name",
            f"there is no Provider {name}: what this policy matches is denied; add it, or mend the name",
            Code.PROVIDER_UNKNOWN,
        )


def _claim_doubts(policy: CompiledPolicy, around: Surroundings) -> Iterator[Finding]:
    """Claims asked for where no RequestAuthentication can attach, so that no token is ever verified."""
    asked = next((field for field in _fields(policy) if asks_for_claims(field.name)), None)
    if asked is None or _may_be_authenticated(policy, around):
        return
    yield warning(
        asked.pointer if asked.values else asked.not_pointer,
        "no RequestAuthentication attaches where this policy does, so there never is a verified token: add one"
        + (" with targetRefs" if policy.spec.target_refs else ""),
        Code.NO_AUTHENTICATION,
    )


def _fields(policy: CompiledPolicy) -> Iterator[FieldTest]:
    for rule in policy.spec.rules:
        for clause in rule.sources:
            yield from clause
        yield from rule.conditions


def _may_be_authenticated(policy: CompiledPolicy, around: Surroundings) -> bool:
    """Whether some RequestAuthentication may attach to a target of the policy: by namespace, generously."""
    namespaces = {policy.namespace, around.view.mesh.root_namespace}
    by_reference = bool(policy.spec.target_refs)
    if by_reference:  # the waypoint may be in another namespace
        namespaces.update(point.namespace for point in around.points if point.kind is PointKind.WAYPOINT)
    return any(
        value.namespace in namespaces and bool(value.target_refs) is by_reference
        for value in around.view.values.of(REQUEST_AUTHENTICATION).values()
    )


def _selector_doubts(policy: CompiledPolicy, around: Surroundings) -> Iterator[Finding]:
    selector = policy.spec.selector
    if not selector or around.workloads is None:
        return
    everywhere = policy.namespace == around.view.mesh.root_namespace
    places = around.workloads.values() if everywhere else (around.workloads.get(policy.namespace, ()),)
    if any(selector.items() <= labels.items() for place in places for labels in place):
        return
    where = "any namespace" if everywhere else f"namespace {policy.namespace}"
    yield warning(
        "/spec/selector/matchLabels",
        f"the inventory has no workload in {where} with these labels: the policy does nothing",
        Code.SELECTOR_UNKNOWN,
    )


def _target(ref: TargetRef, policy: CompiledPolicy, around: Surroundings) -> str:
    """Why a reference leads nowhere, empty when it leads somewhere or nothing is known about such things."""
    view, kind = around.view, ref_kind(ref)
    match kind:
        case "Service" | "ServiceEntry":
            if len(view.services) and view.services.named(f"{_REGISTRIES[kind]}/{policy.namespace}/{ref.name}") is None:
                return f"the inventory has no {kind} {policy.namespace}/{ref.name}: the policy holds for nothing there"
        case "Gateway":
            named = {(point.namespace, point.gateway) for point in around.points if point.gateway}
            if named and (policy.namespace, ref.name) not in named:
                return f"no EnforcementPoint is the Gateway {policy.namespace}/{ref.name}: register it or mend the name"
        case "GatewayClass":
            if policy.namespace != view.mesh.root_namespace:
                return f"a GatewayClass is attached to from the root namespace {view.mesh.root_namespace} only"
            if ref.name != WAYPOINT_CLASS:
                return f"only the class {WAYPOINT_CLASS} is attached to"
        case _:
            pass
    return ""
