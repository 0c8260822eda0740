"""Runs decision cases: a mesh, a workload, policies and a request, and what the decision must be.

In a case the path is as the client sent it, and we do what Envoy would have done in the mesh's mode; in production
Envoy has done it. Policies are taken as a cluster may hold them: what validation would refuse means what it does to
Istio. Hardened matching is off unless the case's mesh switches it on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from app.errors import AppError, ErrorCode, FieldError
from app.limits import PolicyLimits
from app.policy.case_fields import CaseFields
from app.policy.compile import CompiledPolicy, compile_policy
from app.policy.decision import Decision, Reason
from app.policy.demands import BY_DEFAULT, NO_DEMANDS
from app.policy.document import AUTHORIZATION_POLICY, GRANT, parse_document
from app.policy.evaluate import decide
from app.policy.grant import Grant, grant_from_document
from app.policy.grant_index import GrantIndex, GrantsAt
from app.policy.mesh import MeshConfig, PathNormalization
from app.policy.paths import normalize
from app.policy.request import UNAVAILABLE, Request, is_preflight
from app.policy.rule_table import RuleTable
from app.policy.shadow import SAME, ShadowVerdict, decide_shadow
from app.policy.spec_fields import read_moment
from app.policy.target import PointKind, ServiceRef, Target

_ANSWERS = ("allow", "deny")
_PROTOCOLS = ("http", "grpc", "tcp")
_REFUSED_TOKENS = ("expired", "untrusted_issuer", "invalid", "bad_signature")
_IDENTITY_STATES = ("available", "unavailable")
_TOKEN_STATES = ("valid", "none", *_REFUSED_TOKENS)
_CASE_MEMBERS = ("name", "mesh", "workload", "policies", "request", "expected", "now")
_MESH_MEMBERS = (
    "trust_domain",
    "trust_domain_aliases",
    "root_namespace",
    "path_normalization",
    "hardened",
    "enable_multiple_custom_providers",
    "enable_selector_based_k8s_gateway_policy",
)
_WORKLOAD_MEMBERS = (
    "kind",
    "namespace",
    "labels",
    "service",
    "service_namespace",
    "service_registry",
    "gateway_name",
    "gateway_class",
)
_REQUEST_MEMBERS = (
    "protocol",
    "source_principal",
    "identity_state",
    "source_ip",
    "remote_ip",
    "destination_ip",
    "port",
    "method",
    "path",
    "normalized_path",
    "host",
    "headers",
    "sni",
    "jwt_claims",
    "jwt_state",
    "space_delimited_claims",
    "trusted_issuers",
    "dynamic_metadata",
    "provider_decisions",
)
_REJECTED = Decision(False, Reason.MALFORMED, hint="Envoy answers 400 to this path")
_UNAUTHORIZED = Decision(False, Reason.TOKEN_INVALID, hint="a token that does not verify is answered with 401")


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """What one case expected and got, and what would be got once the policies that are tried out were enforced."""

    name: str
    expected: str
    got: str
    policy: str
    rule: str
    reason: str
    shadow: ShadowVerdict | None = None  # None where nothing is tried out, or no policy was asked

    @property
    def passed(self) -> bool:
        """Whether the engine decided as expected."""
        return self.expected == self.got


@dataclass(frozen=True, slots=True)
class CaseReport:
    """The results of a file of cases."""

    results: tuple[CaseResult, ...]

    @property
    def failures(self) -> tuple[CaseResult, ...]:
        """The cases that came out otherwise than expected."""
        return tuple(result for result in self.results if not result.passed)

    def to_json(self) -> dict[str, Any]:
        """`{total, passed, failed, failures: [{name, expected, got, policy, rule}]}`.

        With policies that are tried out, also `shadow`: what would change, by case.
        """
        failures = self.failures
        members = {
            "total": len(self.results),
            "passed": len(self.results) - len(failures),
            "failed": len(failures),
            "failures": [
                {
                    "name": result.name,
                    "expected": result.expected,
                    "got": result.got,
                    "policy": result.policy,
                    "rule": result.rule,
                }
                for result in failures
            ],
        }
        tried = {result.name: result.shadow for result in self.results if result.shadow is not None}
        if tried:
            changed = ({"name": name, **found.to_json()} for name, found in tried.items() if found is not SAME)
            members["shadow"] = {"cases": len(tried), "changes": list(changed)}
        return members


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One case, read."""

    name: str
    expected: str
    table: RuleTable
    target: Target
    request: Request
    rejected: Decision | None  # decided before any policy: a token that does not verify, a path that Envoy refuses
    answers: Mapping[str, bool]
    grants: GrantsAt | None = None  # None without any


def run_cases(cases: Any, limits: PolicyLimits | None = None) -> CaseReport:
    """Decide all cases of a parsed file: a list of cases, or one case.

    Raises:
        AppError: `INVALID`, naming the case, when something in it is not as it should be.
    """
    if isinstance(cases, dict):
        cases = cases["cases"] if isinstance(cases.get("cases"), list) else [cases]
    if not isinstance(cases, Sequence) or isinstance(cases, str):
        raise AppError(ErrorCode.INVALID, "a file of decision cases is a list of cases")
    return CaseReport(tuple(_run(case, index, limits) for index, case in enumerate(cases)))


def run_case(case: Any, limits: PolicyLimits | None = None) -> CaseResult:
    """Decide one case.

    Raises:
        AppError: `INVALID`, naming the case, when something in it is not as it should be.
    """
    return _run(case, 0, limits)


def _run(value: Any, index: int, limits: PolicyLimits | None) -> CaseResult:
    case = read_case(value, index, limits)
    decision = case.rejected or decide(case.table, case.target, case.request, case.answers)
    if case.grants is not None and not case.rejected:
        decision = case.grants.lift(case.target, case.request, decision)
    return CaseResult(
        name=case.name,
        expected=case.expected,
        got="allow" if decision.allowed else "deny",
        policy=decision.policy,
        rule=decision.rule,
        reason=decision.reason.value,
        shadow=None
        if case.rejected
        else decide_shadow(case.table, case.target, case.request, decision, case.answers, grants=case.grants),
    )


def read_case(value: Any, index: int = 0, limits: PolicyLimits | None = None) -> Case:
    """Read one case.

    Raises:
        AppError: `INVALID`, naming the case, when something in it is not as it should be.
    """
    name = value.get("name") if isinstance(value, dict) else None
    label = f"case {index}" if not isinstance(name, str) else f"case {index} ({name})"
    try:
        return _read(CaseFields(value, known=_CASE_MEMBERS), f"case {index}", limits or PolicyLimits())
    except AppError as error:
        raise AppError(error.code, f"{label}: {error.detail}", errors=error.errors) from error


def _read(case: CaseFields, default_name: str, limits: PolicyLimits) -> Case:
    expected = case.choice("expected", _ANSWERS)
    mesh = _mesh(case.object("mesh") or {})
    answers = read_answers(case.object("request"))
    # Whoever gives the answer of a provider wants it asked, also one by our own name.
    mesh = replace(mesh, own_providers=tuple(name for name in mesh.own_providers if name not in answers))
    policies: dict[str, CompiledPolicy] = {}
    grants: dict[str, Grant] = {}
    for index, item in enumerate(case.items("policies")):
        document = parse_document(item, limits)
        if document.kind == GRANT:
            grants[document.key] = grant_from_document(document)
            continue
        if document.kind != AUTHORIZATION_POLICY:
            raise AppError(
                ErrorCode.INVALID,
                "a policy is an AuthorizationPolicy or a Grant",
                errors=(FieldError(f"/policies/{index}/kind", f"{document.kind} is not one"),),
            )
        if document.key in policies:  # cases name several policies alike; each counts
            document = replace(document, name=f"{document.name}#{index}")
        policies[document.key] = compile_policy(document, mesh, limits, unchecked=True)
    request, rejected = read_request(case.object("request"), mesh)
    target = read_target(case.object("workload"))
    return Case(
        name=case.text("name") or default_name,
        expected=expected,
        table=RuleTable.empty(mesh, limits).replaced(policies, ()),
        target=target,
        request=request,
        grants=GrantIndex.empty(mesh, limits).replaced(grants, mesh).at(_now(case)) if grants else None,
        rejected=_before_policies(target, request, rejected),
        answers=answers,
    )


def _before_policies(target: Target, request: Request, rejected: Decision | None) -> Decision | None:
    if target.kind is PointKind.ZTUNNEL:  # it looks into no request
        return None
    demands = BY_DEFAULT if target.kind is PointKind.WAYPOINT else NO_DEMANDS
    return demands.refusal(target, request.principal) or rejected


def read_answers(request: Any) -> dict[str, bool]:
    """What providers answer, from the `provider_decisions` of a case's `request`; True allows.

    Raises:
        AppError: `INVALID` when it is something else.
    """
    answers = CaseFields(request, "request", known=_REQUEST_MEMBERS).fields("provider_decisions")
    given = [provider for provider in answers.names() if answers.has(provider)]
    return {provider: answers.choice(provider, _ANSWERS) == "allow" for provider in given}


def _now(case: CaseFields) -> datetime:
    """The moment for which a case asks its grants."""
    errors: list[FieldError] = []
    now = read_moment(case.text("now"), "/now", errors)
    if now is None:
        raise AppError(ErrorCode.INVALID, "a case with grants says when: `now`", errors=tuple(errors))
    return now


def _mesh(raw: Mapping[str, Any]) -> MeshConfig:
    unknown = [str(member) for member in raw if member not in _MESH_MEMBERS]
    if unknown:
        raise AppError(ErrorCode.INVALID, f"`mesh` has no field {', '.join(sorted(unknown))}")
    mesh = CaseFields(raw, "mesh")
    return MeshConfig(
        trust_domain=mesh.text("trust_domain", "cluster.local"),
        trust_domain_aliases=mesh.texts("trust_domain_aliases"),
        root_namespace=mesh.text("root_namespace", "istio-system"),
        path_normalization=PathNormalization(mesh.choice("path_normalization", list(PathNormalization), "BASE")),
        hardened=mesh.flag("hardened", False),
        multiple_custom_providers=mesh.flag("enable_multiple_custom_providers", False),
        selector_based_gateway_policy=mesh.flag("enable_selector_based_k8s_gateway_policy", True),
    )


def read_target(raw: Any) -> Target:
    """The proxy and what stands behind it, from a case's `workload`.

    Raises:
        AppError: `INVALID` when it is not one.
    """
    workload = CaseFields(raw, "workload", _WORKLOAD_MEMBERS)
    namespace = workload.text("namespace", "default")
    labels = workload.fields("labels")
    services: tuple[ServiceRef, ...] = ()
    if workload.text("service"):
        services = (
            ServiceRef(
                workload.text("service_namespace") or namespace,
                workload.text("service"),
                workload.text("service_registry") or "Kubernetes",
            ),
        )
    return Target(
        PointKind(workload.choice("kind", list(PointKind), "sidecar")),
        namespace,
        labels=tuple(sorted((name, labels.text(name)) for name in labels.names())),
        services=services,
        gateway_name=workload.text("gateway_name"),
        gateway_class=workload.text("gateway_class"),
    )


def read_request(raw: Any, mesh: MeshConfig) -> tuple[Request, Decision | None]:
    """The request as the filter sees it, and what is answered before any policy is asked.

    Raises:
        AppError: `INVALID` when it is not one.
    """
    fields = CaseFields(raw, "request", _REQUEST_MEMBERS)
    protocol = fields.choice("protocol", _PROTOCOLS, "http")
    path, rejected = fields.text("path", "/"), None
    if protocol != "tcp":
        path, rejected = _as_filters_see_it(fields, path, mesh)
    issuer = (fields.object("jwt_claims") or {}).get("iss")
    delimited = fields.fields("space_delimited_claims")
    request = Request(
        protocol=protocol,
        principal=_principal(fields),
        source_ip=fields.text("source_ip"),
        remote_ip=fields.text("remote_ip"),
        destination_ip=fields.text("destination_ip"),
        port=fields.port("port"),
        method=fields.text("method", "POST" if protocol == "grpc" else "GET"),
        path=path,
        host=fields.text("host"),
        headers=_headers(fields.fields("headers")),
        sni=fields.text("sni"),
        claims=fields.object("jwt_claims"),
        space_delimited_claims=frozenset(delimited.texts(issuer) if isinstance(issuer, str) else ()),
        dynamic_metadata=fields.object("dynamic_metadata"),
    )
    if protocol == "tcp":
        return request, None
    state = fields.choice("jwt_state", _TOKEN_STATES, "none")
    if is_preflight(request) or (fields.has("trusted_issuers") and not fields.texts("trusted_issuers")):
        request.claims = None  # nobody looks at a token: browsers send none, or no issuer is believed here
        return request, rejected
    return request, _token_refusal(fields, state) or rejected


def _principal(fields: CaseFields) -> str:
    """Who calls, as the proxy says; what it could not tell reads as nobody."""
    principal = fields.text("source_principal")
    if fields.choice("identity_state", _IDENTITY_STATES, "available") == "available":
        return principal
    if principal:
        raise AppError(ErrorCode.INVALID, "`request` has a `source_principal`, so its identity is not unavailable")
    return UNAVAILABLE


def _as_filters_see_it(fields: CaseFields, path: str, mesh: MeshConfig) -> tuple[str, Decision | None]:
    """The path after Envoy's normalisation, or the refusal that Envoy answers to it."""
    if fields.has("normalized_path"):
        return fields.text("normalized_path"), None
    normalized = normalize(path, mesh.path_normalization) if path.startswith("/") else path
    return (path, _REJECTED) if normalized is None else (normalized, None)


def _headers(fields: CaseFields) -> dict[str, tuple[str, ...]]:
    headers: dict[str, tuple[str, ...]] = {}
    for name in fields.names():
        values = fields.header_values(name)
        if values:
            headers[name.lower()] = headers.get(name.lower(), ()) + values
    return headers


def _token_refusal(fields: CaseFields, state: str) -> Decision | None:
    """A token that is present and does not verify is 401 before any policy; none at all is not an error."""
    if state in _REFUSED_TOKENS:
        return _UNAUTHORIZED
    claims = fields.object("jwt_claims")
    if (
        claims is not None
        and fields.has("trusted_issuers")
        and claims.get("iss") not in fields.texts("trusted_issuers")
    ):
        return _UNAUTHORIZED
    return None
