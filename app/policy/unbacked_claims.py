"""Policies that ask for claims where no token is verified: their rules see a request without claims, always."""

from __future__ import annotations

from collections.abc import Iterator

from app.policy.asked_user import asks_for_claims
from app.policy.attachment import policy_keys
from app.policy.authorization_policy import FieldTest, PolicySpec
from app.policy.document import REQUEST_AUTHENTICATION
from app.policy.finding import Finding, warning
from app.policy.policy_view import PolicyView

MESSAGE = (
    "no RequestAuthentication attaches where this policy does, so requests have no claims: values never match, and "
    "what is negated always holds. Attach one, with the same targetRefs"
)
# Beside an equal key: what may cover some of the requests that a key stands for, or all of them.
_COVERED_BY = {
    "Service": ("Gateway/", "GatewayClass/"),
    "ServiceEntry": ("Gateway/", "GatewayClass/"),
    "Gateway": ("GatewayClass/", "Service/", "ServiceEntry/"),
    "GatewayClass": ("Gateway/", "Service/", "ServiceEntry/"),
}


def claims_without_authentication(view: PolicyView) -> Iterator[tuple[str, Finding]]:
    """A warning for each field that asks for claims, with the key of its document.

    Only where certainly no request has claims: which waypoint serves a service is not in the documents.
    """
    verified = {
        key
        for value in view.values.of(REQUEST_AUTHENTICATION).values()
        if value.rules
        for key in policy_keys(value.namespace, value)
    }
    for policy in view.table.policies():
        fields = list(_claim_fields(policy.spec))
        if fields and not any(
            _is_covered(key, verified, view.mesh.root_namespace) for key in policy_keys(policy.namespace, policy.spec)
        ):
            for field in fields:
                yield policy.key, warning(field.pointer if field.values else field.not_pointer, MESSAGE)


def _claim_fields(spec: PolicySpec) -> Iterator[FieldTest]:
    for rule in spec.rules:
        for field in (*(f for clause in rule.sources for f in clause), *rule.conditions):
            if asks_for_claims(field.name):
                yield field


def _is_covered(key: str, verified: set[str], root_namespace: str) -> bool:
    if key in verified:
        return True
    kind, namespace, _ = key.split("/", 2) if key.count("/") > 1 else (*key.split("/", 1), "")
    prefixes = _COVERED_BY.get(kind)
    if prefixes is None:  # a selector or a whole namespace: other selectors there may select the same workloads
        prefixes = tuple(
            prefix for place in (namespace, root_namespace) for prefix in (f"namespace/{place}", f"label/{place}/")
        )
        if namespace == root_namespace:
            prefixes = ("namespace/", "label/")
    return any(other.startswith(prefixes) for other in verified)
