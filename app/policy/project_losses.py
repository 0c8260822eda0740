"""What a native policy would not enforce as we do: the reasons why a policy cannot be projected.

A policy with target references is enforced by the Envoy of a waypoint or gateway, one without by ztunnel (and by the
sidecars and gateways that it selects). Only what is never weaker there is projected.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from app.policy.attachment import ref_kind
from app.policy.authorization_policy import Action, FieldTest, PolicySpec
from app.policy.field_tests import ZTUNNEL_FIELDS
from app.policy.mesh import MeshConfig
from app.policy.mode import Mode

_TRUST_DOMAIN_FIELDS = ("trustDomains", "source.trustDomain")
_CLIENT_ADDRESS_FIELDS = ("remoteIpBlocks", "remote.ip")
_READ_IN_MANY_WAYS = frozenset({"paths", "hosts"})
_ALLOW_WEAKER = "the native rule would allow requests that a server may read as something else (/public/..%2fadmin)"
_DENY_WEAKER = (
    "the native rule would miss spellings that a server may read as what it denies (/admin%2f, /x/..%2fadmin)"
)


@dataclass(frozen=True, slots=True)
class Loss:
    """One reason: where it stands in the document (JSON pointer), and what would be lost."""

    pointer: str
    why: str


def losses(spec: PolicySpec, mesh: MeshConfig, mode: Mode) -> tuple[Loss, ...]:
    """Why a policy cannot be projected; empty when a native copy decides as we do, whatever the request."""
    return tuple(_losses(spec, mesh, mode))


def _losses(spec: PolicySpec, mesh: MeshConfig, mode: Mode) -> Iterator[Loss]:
    if spec.action is Action.CUSTOM:
        own = spec.provider in mesh.own_providers
        yield Loss(
            "/spec/action",
            "this policy is how requests come to us; `--with-custom` writes it for a waypoint"
            if own
            else f"the provider {spec.provider} is asked by us; neither ztunnel nor a waypoint asks it like this",
        )
        return
    if spec.action is Action.AUDIT:
        yield Loss("/spec/action", "AUDIT decides nothing, and ztunnel does not know it")
        return
    if mode is not Mode.ENFORCE:
        yield Loss("/metadata/annotations", f"its mode is {mode}: it is tried out here, or off; only we do that")
    for ref in spec.target_refs:
        if ref_kind(ref) is None or ref.namespace:
            yield Loss(ref.pointer, "this target reference attaches to nothing, so nobody would enforce the policy")
    for rule in spec.rules:
        fields = [field for clause in (*rule.sources, *rule.operations) for field in clause]
        for field in (*fields, *rule.conditions):
            why = _at_envoy(field, spec.action, mesh) if spec.target_refs else _at_ztunnel(field, spec.action)
            if why is not None:
                yield Loss(field.pointer if field.values else field.not_pointer, f"{field.name}: {why}")


def _at_ztunnel(field: FieldTest, action: Action) -> str | None:
    if field.name in _TRUST_DOMAIN_FIELDS:
        return "ztunnel does not compare trust domains, and the rule would match every one"
    if field.name in ZTUNNEL_FIELDS:
        return None
    if action is Action.ALLOW:
        return "ztunnel does not see this (no target reference: it enforces the policy), so the ALLOW rule is dropped"
    return "ztunnel does not see this (no target reference: it enforces the policy), so it is left out of the DENY rule"


def _at_envoy(field: FieldTest, action: Action, mesh: MeshConfig) -> str | None:
    if field.name in _TRUST_DOMAIN_FIELDS:
        return "older API servers drop the field without a word, and the rule would match every trust domain"
    if field.name == "requestPrincipals" or field.name.startswith("request.auth."):
        return "the token is verified by us; a native policy trusts what Istio's own RequestAuthentication verified"
    if field.name in _CLIENT_ADDRESS_FIELDS:
        return "which hops are trusted is configured for Istio and for us apart, so it may mean another address there"
    if mesh.hardened and (field.name in _READ_IN_MANY_WAYS or field.name.startswith("request.headers")):
        return _ALLOW_WEAKER if action is Action.ALLOW else _DENY_WEAKER
    return None
