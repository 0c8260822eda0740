"""Doubts about identity: rules that hold for who has none, and principals of other trust domains."""

from __future__ import annotations

from collections.abc import Iterator

from app.policy.authorization_policy import Action, FieldTest
from app.policy.compile import CompiledPolicy
from app.policy.finding import Finding, warning
from app.policy.finding_codes import Code
from app.policy.identity_matchers import expand_principals
from app.policy.lint_places import Surroundings

_IDENTITY = frozenset(
    {
        "principals",
        "namespaces",
        "serviceAccounts",
        "trustDomains",
        "source.principal",
        "source.namespace",
        "source.serviceAccount",
        "source.trustDomain",
    }
)


def identity_doubts(policy: CompiledPolicy, around: Surroundings) -> Iterator[Finding]:
    """Rules about who the peer is, where the peer may be nobody."""
    anonymous = around.anonymous_point(policy)
    for rule in policy.spec.rules:
        for clause in rule.sources or ((),):
            asked = [field for field in (*clause, *rule.conditions) if field.name in _IDENTITY]
            positive = [field for field in asked if field.values]
            if asked and not positive and policy.action is Action.ALLOW and (anonymous or not policy.spec.target_refs):
                yield warning(
                    asked[0].not_pointer,
                    'negations also hold for a peer without an identity, so this allows it; add principals: ["*"]',
                    Code.ANONYMOUS_ALLOWED,
                )
            if positive and policy.action is Action.DENY and anonymous:
                yield warning(
                    positive[0].pointer,
                    f"{anonymous} does not require an identity, and who has none is never denied by this rule: set "
                    "requireIdentity, or ALLOW who may instead",
                    Code.ANONYMOUS_NOT_DENIED,
                )
        for field in (*(field for clause in rule.sources for field in clause), *rule.conditions):
            yield from _foreign(field, around)


def _foreign(field: FieldTest, around: Surroundings) -> Iterator[Finding]:
    if field.name not in ("principals", "source.principal"):
        return
    mesh = around.view.mesh
    for index, value in enumerate(field.values):
        parts = value.split("/")
        known = {mesh.trust_domain, *mesh.trust_domain_aliases}
        if (
            len(parts) == 5
            and "*" not in parts[0]
            and parts[0] not in known
            and expand_principals((value,), mesh) == [value]
        ):
            yield warning(
                f"{field.pointer}/{index}",
                f"{parts[0]} is neither the mesh's trust domain nor an alias of it: right only for a federated peer",
                Code.FOREIGN_TRUST_DOMAIN,
            )
