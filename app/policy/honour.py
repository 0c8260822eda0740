"""What a policy asks for and this release cannot give: each is said where it is written."""

from __future__ import annotations

from collections.abc import Iterator

from app.policy.authorization_policy import Action, FieldTest, PolicySpec
from app.policy.finding import Finding, warning
from app.policy.finding_codes import Code

_REMOTE = (
    "Envoy sends the direct peer only: set `trustedHops` of the EnforcementPoint to how many proxies before it write "
    "X-Forwarded-For, else the direct peer's address is compared"
)
_NEVER_RECEIVED = {
    "connection.sni": "Envoy sends the server name only with include_tls_session, which Istio cannot set",
    "remoteIpBlocks": _REMOTE,
    "remote.ip": _REMOTE,
}


def honour_warnings(spec: PolicySpec) -> Iterator[Finding]:
    """Warnings for everything in a policy that is not, or not fully, enforced here."""
    if spec.action is Action.AUDIT:
        yield warning("/spec/action", "AUDIT decides nothing, and audited requests are not marked yet")
    for rule in spec.rules:
        for field in (*(f for clause in (*rule.sources, *rule.operations) for f in clause), *rule.conditions):
            message = _field_warning(field)
            if message is not None:
                yield warning(field.pointer if field.values else field.not_pointer, message, Code.NOT_RECEIVED)


def _field_warning(field: FieldTest) -> str | None:
    if field.name.startswith("experimental.envoy.filters."):
        return "Envoy does not send dynamic metadata to ext_authz, so there is none"
    return _NEVER_RECEIVED.get(field.name)
