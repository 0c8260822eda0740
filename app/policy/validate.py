"""Findings for a document: what is wrong with it, and what it does not do that its author may think it does.

Errors are what Istio's own validation refuses, and what could only be misunderstood here. Warnings are doubts, and
everything that this release cannot honour: never silence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

from app.errors import AppError, FieldError
from app.limits import PolicyLimits
from app.policy.authorization_policy import Action
from app.policy.document import (
    AUTHORIZATION_POLICY,
    CLUSTER_SCOPED,
    ENFORCEMENT_POINT,
    GRANT,
    MESH,
    PROVIDER,
    QUARANTINE,
    REGO_MODULE,
    REQUEST_AUTHENTICATION,
    Document,
)
from app.policy.document_values import read_value
from app.policy.enforcement_point import EnforcementPoint
from app.policy.finding import Finding, Severity, error, warning
from app.policy.finding_codes import Code
from app.policy.grant import Grant, grant_findings
from app.policy.mesh import MeshConfig, PathNormalization
from app.policy.ownership import effect_findings
from app.policy.policy_findings import attachment_findings, policy_findings, rule_findings
from app.policy.provider import Provider
from app.policy.quarantine import Quarantine
from app.policy.rego_module import RegoModule, rego_module_doubts
from app.policy.request_authentication import RequestAuthentication, authentication_doubts
from app.policy.target import PointKind

__all__ = ["Finding", "Severity", "errors_of", "validate"]


_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")


def validate(document: Document, limits: PolicyLimits, now: datetime | None = None) -> list[Finding]:
    """Everything that is wrong or doubtful with a document, errors first; errors keep it out.

    With `now`, also what is over already.
    """
    findings = [*_name_findings(document), *effect_findings(document)]
    if document.kind == AUTHORIZATION_POLICY:
        findings.extend(policy_findings(document, limits))
    else:
        findings.extend(_kind_findings(document, limits, now))
    return sorted(dict.fromkeys(findings), key=lambda finding: finding.severity is Severity.WARNING)


def errors_of(findings: list[Finding]) -> tuple[FieldError, ...]:
    """The errors among findings, as what an `AppError` carries."""
    return tuple(
        FieldError(finding.pointer, finding.message) for finding in findings if finding.severity is Severity.ERROR
    )


def _name_findings(document: Document) -> Iterator[Finding]:
    if not _SUBDOMAIN.fullmatch(document.name):
        yield error(
            "/metadata/name", "a Kubernetes name is wanted: a-z, 0-9, '-' and '.', at most 253 characters", Code.NAME
        )
    if document.kind not in CLUSTER_SCOPED and not _LABEL.fullmatch(document.namespace):
        yield error("/metadata/namespace", "a namespace is wanted: a-z, 0-9 and '-', at most 63 characters", Code.NAME)


def _kind_findings(document: Document, limits: PolicyLimits, now: datetime | None) -> Iterator[Finding]:
    try:
        value = read_value(document)
    except AppError as raised:
        yield from (error(found.pointer, found.message) for found in raised.errors)
        if not raised.errors:
            yield error("/spec", raised.detail)
        return
    if isinstance(value, Grant):
        yield from grant_findings(value, limits, now)
    doubts = _DOUBTS.get(document.kind)
    if doubts is not None:
        yield from doubts(value, document)


def _mesh_doubts(mesh: MeshConfig, _document: Document) -> Iterator[Finding]:
    if not mesh.hardened:
        yield warning(
            "/spec/hardened", "without hardened matching, /public/..;/admin passes an ALLOW rule for /public/*"
        )
    if mesh.path_normalization is PathNormalization.NONE:
        yield warning("/spec/pathNormalization", "without normalisation paths evade rules; BASE is Istio's default")


def _point_doubts(point: EnforcementPoint, document: Document) -> Iterator[Finding]:
    if point.via_ztunnel:
        yield warning(
            "/spec/caller/via", "the identity is asserted: the ztunnel before the worker must admit only this waypoint"
        )
    if not point.require_identity and point.kind is PointKind.WAYPOINT:
        yield warning(
            "/spec/requireIdentity", "requests whose sender is not known are treated as unauthenticated, not denied"
        )
    if point.service_from_host:
        yield warning(
            "/spec/serviceFromHost",
            "clients write the Host header: only right where the proxy sends a request to the service of its Host",
        )
    if point.kind is PointKind.WAYPOINT and not point.service_from_host and "requireService" not in document.spec:
        yield warning(
            "/spec/requireService",
            "not said, so policies of services do not hold for an address that no service of the inventory has: write "
            "true to deny such requests, false where pods are addressed directly",
        )


def _quarantine_doubts(quarantine: Quarantine, _document: Document) -> Iterator[Finding]:
    if quarantine.node or quarantine.serial:
        yield warning(
            f"/spec/{'node' if quarantine.node else 'serial'}",
            "a Check sees this only where Envoy sends the peer's certificate; elsewhere a CRL or expiry cuts it off",
        )


def _authentication_doubts(value: RequestAuthentication, document: Document) -> Iterator[Finding]:
    yield from attachment_findings(document, value)
    yield from authentication_doubts(value)


def _provider_doubts(provider: Provider, _document: Document) -> Iterator[Finding]:
    if provider.allow_partial_body:
        yield warning(
            "/spec/allowPartialBody",
            "the rest of a body may say what its beginning does not: the provider must look at input.truncated_body",
        )
    if provider.rego is not None and provider.rego.url.startswith("http://") and not provider.rego.is_local:
        yield warning(
            "/spec/rego/opa/url",
            "headers with credentials travel there, and its answers decide: use https, a UNIX socket or loopback",
        )


def _rego_module_doubts(module: RegoModule, _document: Document) -> Iterator[Finding]:
    return rego_module_doubts(module)


def _grant_doubts(grant: Grant, document: Document) -> Iterator[Finding]:
    yield from attachment_findings(document, grant.spec)
    for rule in grant.spec.rules:
        yield from rule_findings(rule, Action.ALLOW)


# What is doubtful about a value that could be read, by kind.
_DOUBTS: Mapping[str, Callable[[Any, Document], Iterator[Finding]]] = {
    MESH: _mesh_doubts,
    ENFORCEMENT_POINT: _point_doubts,
    QUARANTINE: _quarantine_doubts,
    PROVIDER: _provider_doubts,
    REQUEST_AUTHENTICATION: _authentication_doubts,
    REGO_MODULE: _rego_module_doubts,
    GRANT: _grant_doubts,
}
