"""Findings for a document: what is wrong with it, and what it does not do that its author may think it does.

Errors are what Istio's own validation refuses, and what could only be misunderstood here. Warnings are doubts, and
everything that this release cannot honour: never silence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from app.errors import AppError, FieldError
from app.limits import PolicyLimits
from app.policy.attachment import Attachable, ref_kind
from app.policy.authorization_policy import Action, FieldTest, PolicySpec, RuleSpec, SpecReader, TargetRef, not_field
from app.policy.document import (
    AUTHORIZATION_POLICY,
    CLUSTER_SCOPED,
    ENFORCEMENT_POINT,
    MESH,
    PROVIDER,
    QUARANTINE,
    REGO_MODULE,
    REQUEST_AUTHENTICATION,
    Document,
)
from app.policy.document_values import read_value
from app.policy.enforcement_point import EnforcementPoint
from app.policy.field_tests import content_problems, is_http_only
from app.policy.finding import Finding, Severity, error, warning
from app.policy.honour import honour_warnings
from app.policy.matchers import has_template
from app.policy.mesh import MeshConfig, PathNormalization
from app.policy.mode import DRY_RUN, FALSE_WORDS, MODE, TRUE_WORDS, Mode
from app.policy.ownership import effect_findings
from app.policy.provider import Provider
from app.policy.quarantine import Quarantine
from app.policy.rego_module import RegoModule, rego_module_doubts
from app.policy.request_authentication import RequestAuthentication, authentication_doubts
from app.policy.target import PointKind

__all__ = ["Finding", "Severity", "errors_of", "validate"]

MAX_SERVICE_ACCOUNTS = 16
MAX_SERVICE_ACCOUNT_CHARS = 320

_NOT_ENFORCED = "the policy is tried out, not enforced: the shadow verdict of each decision says what it would change"
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_IDENTITY_FIELDS = frozenset({"principals", "requestPrincipals", "namespaces", "serviceAccounts", "trustDomains"})
_IDENTITY_KEYS = frozenset({"source.namespace", "source.principal", "source.serviceAccount", "source.trustDomain"})


def validate(document: Document, limits: PolicyLimits) -> list[Finding]:
    """Everything that is wrong or doubtful with a document, errors first; errors keep it out."""
    findings = [*_name_findings(document), *effect_findings(document)]
    if document.kind == AUTHORIZATION_POLICY:
        findings.extend(_policy_findings(document, limits))
    else:
        findings.extend(_kind_findings(document))
    return sorted(dict.fromkeys(findings), key=lambda finding: finding.severity is Severity.WARNING)


def errors_of(findings: list[Finding]) -> tuple[FieldError, ...]:
    """The errors among findings, as what an `AppError` carries."""
    return tuple(
        FieldError(finding.pointer, finding.message) for finding in findings if finding.severity is Severity.ERROR
    )


def _name_findings(document: Document) -> Iterator[Finding]:
    if not _SUBDOMAIN.fullmatch(document.name):
        yield error("/metadata/name", "a Kubernetes name is wanted: a-z, 0-9, '-' and '.', at most 253 characters")
    if document.kind not in CLUSTER_SCOPED and not _LABEL.fullmatch(document.namespace):
        yield error("/metadata/namespace", "a namespace is wanted: a-z, 0-9 and '-', at most 63 characters")


def _kind_findings(document: Document) -> Iterator[Finding]:
    try:
        value = read_value(document)
    except AppError as raised:
        yield from (error(found.pointer, found.message) for found in raised.errors)
        if not raised.errors:
            yield error("/spec", raised.detail)
        return
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
    yield from _attachment_findings(document, value)
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


# What is doubtful about a value that could be read, by kind.
_DOUBTS: Mapping[str, Callable[[Any, Document], Iterator[Finding]]] = {
    MESH: _mesh_doubts,
    ENFORCEMENT_POINT: _point_doubts,
    QUARANTINE: _quarantine_doubts,
    PROVIDER: _provider_doubts,
    REQUEST_AUTHENTICATION: _authentication_doubts,
    REGO_MODULE: _rego_module_doubts,
}


def _policy_findings(document: Document, limits: PolicyLimits) -> Iterator[Finding]:
    reader = SpecReader(limits)
    spec = reader.read(document.spec)
    for problem in (*reader.errors, *reader.empty, *content_problems(spec)):
        yield error(problem.pointer, problem.message)
    yield from _action_findings(spec)
    yield from _mode_findings(document, spec)
    yield from _attachment_findings(document, spec)
    for rule in spec.rules:
        yield from _rule_findings(rule, spec.action)
    yield from honour_warnings(spec)


def _action_findings(spec: PolicySpec) -> Iterator[Finding]:
    if spec.action is Action.CUSTOM:
        if not spec.provider:
            yield error("/spec/provider/name", "a CUSTOM policy names the provider that is asked")
    elif spec.provider is not None:
        yield error("/spec/provider", f"only CUSTOM policies have a provider; remove it, or the action {spec.action}")
    if not spec.rules:
        if spec.action in (Action.DENY, Action.CUSTOM):
            yield error(
                "/spec/rules", f"a {spec.action} policy without rules matches nothing; `rules: [{{}}]` is everything"
            )
        elif spec.action is Action.ALLOW:
            yield warning("/spec/rules", "an ALLOW policy without rules allows nothing: all requests are denied")


def _mode_findings(document: Document, spec: PolicySpec) -> Iterator[Finding]:
    dry_run, mode = document.annotations.get(DRY_RUN), document.annotations.get(MODE)
    pointer = "/metadata/annotations/istio.io~1dry-run"
    if dry_run is not None and dry_run not in TRUE_WORDS | FALSE_WORDS:
        yield error(pointer, 'write "true" or "false"')
    elif dry_run is not None and spec.action not in (Action.ALLOW, Action.DENY):
        yield error(pointer, f"a {spec.action} policy cannot be a dry run; {MODE} tries out every action")
    elif dry_run in TRUE_WORDS and mode is None:
        yield warning(pointer, _NOT_ENFORCED)
    if mode is None:
        return
    pointer = "/metadata/annotations/gatehouse.dev~1mode"
    if mode not in tuple(Mode):
        yield error(pointer, f"one of {', '.join(Mode)} is wanted")
    elif dry_run in TRUE_WORDS and mode != Mode.SHADOW:
        yield error(pointer, f"Istio's {DRY_RUN} tries the policy out, and this says {mode}; remove one of the two")
    elif spec.action is Action.AUDIT and mode != Mode.ENFORCE:
        yield warning(pointer, "an AUDIT policy decides nothing, so there is nothing to try out")
    elif mode == Mode.SHADOW:
        yield warning(pointer, _NOT_ENFORCED)
    elif mode == Mode.OFF:
        yield warning(pointer, "the policy is neither enforced nor tried out")


def _attachment_findings(document: Document, spec: Attachable) -> Iterator[Finding]:
    written = [name for name in ("selector", "targetRef", "targetRefs") if document.spec.get(name)]
    if len(written) > 1:
        yield error(f"/spec/{written[0]}", f"only one of {' and '.join(written)} may be set; remove the others")
    if spec.selector is not None:
        yield from _selector_findings(spec.selector)
    for ref in spec.target_refs:
        yield from _ref_findings(ref)
    if not spec.target_refs:
        yield warning(
            "/spec", "without targetRefs no waypoint enforces this policy, only sidecars, gateways and ztunnel (L4) do"
        )


def _selector_findings(selector: object) -> Iterator[Finding]:
    labels = selector if isinstance(selector, dict) else {}
    if not labels:
        yield warning("/spec/selector", "an empty selector selects every workload of the namespace")
    for key, value in labels.items():
        if not key or "*" in key or "*" in value:
            yield error("/spec/selector/matchLabels", f"the label {key!r}: {value!r} is not one; no '*', no empty key")


def _ref_findings(ref: TargetRef) -> Iterator[Finding]:
    if not ref.name:
        yield error(f"{ref.pointer}/name", "name what the policy attaches to")
    if ref.namespace:
        yield error(f"{ref.pointer}/namespace", "a policy attaches in its own namespace only; remove this")
    if ref_kind(ref) is None:
        yield error(
            f"{ref.pointer}/kind",
            "known are Gateway and GatewayClass (group gateway.networking.k8s.io), Service (group core or empty) and "
            "ServiceEntry (group networking.istio.io)",
        )


def _rule_findings(rule: RuleSpec, action: Action) -> Iterator[Finding]:
    fields = [field for clause in (*rule.sources, *rule.operations) for field in clause]
    for field in (*fields, *rule.conditions):
        yield from _value_findings(field)
    for clause in rule.sources:
        yield from _source_findings(clause)
    for condition in rule.conditions:
        if not condition.values and not condition.not_values:
            yield error(condition.pointer.rpartition("/")[0], "a condition has values or notValues")
    if action is Action.CUSTOM:
        yield from _custom_findings(rule, fields)
    if action is Action.DENY:
        names = [field.name for field in (*fields, *rule.conditions)]
        if any(map(is_http_only, names)) and "ports" not in names and "destination.port" not in names:
            yield warning(
                rule.pointer, "on TCP ports the HTTP fields of a DENY rule are left out and it denies more; add `ports`"
            )


def _value_findings(field: FieldTest) -> Iterator[Finding]:
    for pointer, values in ((field.pointer, field.values), (field.not_pointer, field.not_values)):
        for index, value in enumerate(values):
            here = f"{pointer}/{index}"
            if not value:
                yield error(here, "an empty string; remove it, or write '*' for any value")
            elif field.name in ("principals", "source.principal") and value.startswith("spiffe://"):
                yield warning(here, "a principal is written without spiffe://; like this it never matches")
            elif field.name == "paths":
                yield from _path_findings(value, here)
            elif field.name == "methods" and value != value.upper():
                yield warning(here, "methods are upper case; like this it never matches")
            elif field.name in ("trustDomains", "source.trustDomain"):
                inner = value[1:] if value.startswith("*") else value.removesuffix("*")
                if "/" in value or "*" in inner:
                    yield error(here, "a trust domain has no '/', and one '*' at its start or end at most")
            elif field.name in ("serviceAccounts", "source.serviceAccount"):
                yield from _account_findings(value, here)


def _path_findings(value: str, pointer: str) -> Iterator[Finding]:
    if "?" in value or "#" in value:
        yield warning(pointer, "paths are compared without query and fragment; like this it never matches")
    elif not value.startswith(("/", "*")):
        yield warning(pointer, "a path starts with '/'; like this it never matches")
    elif "*" in value[1:-1] and not has_template(value):
        yield warning(pointer, "a '*' inside a path is an ordinary character; `{*}` stands for one segment")


def _account_findings(value: str, pointer: str) -> Iterator[Finding]:
    if len(value) > MAX_SERVICE_ACCOUNT_CHARS:
        yield error(pointer, f"longer than {MAX_SERVICE_ACCOUNT_CHARS} characters")
    parts = value.split("/")
    if len(parts) > 2 or not all(parts):
        yield error(pointer, "write `namespace/account`, or `account` for the policy's own namespace")
    elif "*" in value:
        yield warning(pointer, "service accounts have no wildcards; like this it never matches")


def _source_findings(clause: tuple[FieldTest, ...]) -> Iterator[Finding]:
    by_name = {field.name: field for field in clause}
    accounts = by_name.get("serviceAccounts")
    if accounts is None:
        return
    for pointer, values in ((accounts.pointer, accounts.values), (accounts.not_pointer, accounts.not_values)):
        if len(values) > MAX_SERVICE_ACCOUNTS:
            yield error(pointer, f"at most {MAX_SERVICE_ACCOUNTS} service accounts; add another source")
    if "principals" in by_name or "namespaces" in by_name:
        yield error(accounts.pointer, "serviceAccounts cannot stand beside principals or namespaces in one source")


def _custom_findings(rule: RuleSpec, fields: list[FieldTest]) -> Iterator[Finding]:
    for field in fields:
        if field.name in _IDENTITY_FIELDS:
            pointer = field.pointer if field.values else field.not_pointer
            name = field.name if field.values else not_field(field.name)
            yield error(pointer, f"a CUSTOM rule cannot ask for {name}: the provider decides on identity")
    for condition in rule.conditions:
        if condition.name in _IDENTITY_KEYS or condition.name.startswith("request.auth."):
            yield error(
                condition.pointer.rpartition("/")[0] + "/key",
                f"a CUSTOM rule cannot ask for {condition.name}: the provider decides on identity",
            )
