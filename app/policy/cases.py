"""Runs decision cases: a mesh, a workload, policies and a request, and what the decision must be.

In a case the path is as the client sent it, and we do what Envoy would have done in the mesh's mode; in production
Envoy has done it. Hardened matching is off unless the case's mesh switches it on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.errors import AppError, ErrorCode, FieldError
from app.limits import PolicyLimits
from app.policy.compile import compile_policy
from app.policy.decision import Decision, Reason
from app.policy.document import AUTHORIZATION_POLICY, parse_document
from app.policy.evaluate import decide
from app.policy.mesh import MeshConfig, PathNormalization
from app.policy.paths import normalize
from app.policy.request import Request
from app.policy.rule_table import RuleTable
from app.policy.target import PointKind, ServiceRef, Target

_REFUSED_TOKENS = frozenset({"expired", "untrusted_issuer", "invalid", "bad_signature"})
_REJECTED = Decision(False, Reason.MALFORMED, hint="Envoy answers 400 to this path")
_UNAUTHORIZED = Decision(False, Reason.MALFORMED, hint="a token that does not verify is answered with 401")


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """What one case expected and got."""

    name: str
    expected: str
    got: str
    policy: str
    rule: str
    reason: str

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
        """`{total, passed, failed, failures: [{name, expected, got, policy, rule}]}`."""
        failures = self.failures
        return {
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
    return CaseResult(
        name=case.name,
        expected=case.expected,
        got="allow" if decision.allowed else "deny",
        policy=decision.policy,
        rule=decision.rule,
        reason=decision.reason.value,
    )


def read_case(value: Any, index: int = 0, limits: PolicyLimits | None = None) -> Case:
    """Read one case.

    Raises:
        AppError: `INVALID`, naming the case, when something in it is not as it should be.
    """
    if not isinstance(value, dict):
        raise AppError(ErrorCode.INVALID, f"case {index} is not an object")
    name = value.get("name")
    label = f"case {index}" if not isinstance(name, str) else f"case {index} ({name})"
    try:
        return _read(value, name if isinstance(name, str) else f"case {index}", limits or PolicyLimits())
    except AppError as error:
        raise AppError(error.code, f"{label}: {error.detail}", errors=error.errors) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AppError(ErrorCode.INVALID, f"{label} is not a decision case: {error}") from error


def _read(value: Mapping[str, Any], name: str, limits: PolicyLimits) -> Case:
    expected = value["expected"]
    if expected not in ("allow", "deny"):
        raise AppError(ErrorCode.INVALID, "`expected` is allow or deny")
    mesh = _mesh(_object(value, "mesh"))
    policies = {}
    for index, item in enumerate(value.get("policies") or []):
        document = parse_document(item, limits)
        if document.kind != AUTHORIZATION_POLICY:
            raise AppError(
                ErrorCode.INVALID,
                "a policy is an AuthorizationPolicy",
                errors=(FieldError(f"/policies/{index}/kind", f"{document.kind} is not one"),),
            )
        # Cases name several policies alike; each counts.
        policies[f"{document.key}#{index}"] = compile_policy(document, mesh, limits)
    raw = _object(value, "request")
    request, rejected = read_request(raw, mesh)
    return Case(
        name=name,
        expected=expected,
        table=RuleTable.empty(mesh, limits).replaced(policies, ()),
        target=read_target(value.get("workload") or {}),
        request=request,
        rejected=rejected,
        answers={provider: answer == "allow" for provider, answer in (raw.get("provider_decisions") or {}).items()},
    )


def _object(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    member = value.get(key)
    if member is not None and not isinstance(member, dict):
        raise AppError(ErrorCode.INVALID, f"`{key}` is an object")
    return member or {}


def _mesh(raw: Mapping[str, Any]) -> MeshConfig:
    known = {
        "trust_domain",
        "trust_domain_aliases",
        "root_namespace",
        "path_normalization",
        "hardened",
        "enable_multiple_custom_providers",
        "enable_selector_based_k8s_gateway_policy",
    }
    unknown = set(raw) - known
    if unknown:
        raise AppError(ErrorCode.INVALID, f"`mesh` has no field {', '.join(sorted(unknown))}")
    return MeshConfig(
        trust_domain=raw.get("trust_domain", "cluster.local"),
        trust_domain_aliases=tuple(raw.get("trust_domain_aliases") or ()),
        root_namespace=raw.get("root_namespace", "istio-system"),
        path_normalization=PathNormalization(raw.get("path_normalization", "BASE")),
        hardened=bool(raw.get("hardened", False)),
        multiple_custom_providers=bool(raw.get("enable_multiple_custom_providers", False)),
        selector_based_gateway_policy=bool(raw.get("enable_selector_based_k8s_gateway_policy", True)),
    )


def read_target(raw: Mapping[str, Any]) -> Target:
    """The proxy and what stands behind it, from a case's `workload`.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: when it is not one; the caller says of what.
    """
    namespace = raw.get("namespace", "default")
    services: tuple[ServiceRef, ...] = ()
    if raw.get("service"):
        services = (
            ServiceRef(
                raw.get("service_namespace") or namespace, raw["service"], raw.get("service_registry") or "Kubernetes"
            ),
        )
    return Target(
        PointKind(raw.get("kind", "sidecar")),
        namespace,
        labels=tuple(sorted((raw.get("labels") or {}).items())),
        services=services,
        gateway_name=raw.get("gateway_name") or "",
        gateway_class=raw.get("gateway_class") or "",
    )


def read_request(raw: Mapping[str, Any], mesh: MeshConfig) -> tuple[Request, Decision | None]:
    """The request as the filter sees it, and what is answered before any policy is asked.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: when it is not one; the caller says of what.
    """
    protocol = raw.get("protocol") or "http"
    path = raw.get("path", "/") or ""
    rejected = None
    if protocol != "tcp":
        normalized = raw.get("normalized_path")
        if normalized is None:
            normalized = normalize(path, mesh.path_normalization) if path.startswith("/") else path
        if normalized is None:
            rejected, normalized = _REJECTED, path
        path = normalized
        rejected = _token_refusal(raw) or rejected
    claims = raw.get("jwt_claims")
    issuer = (claims or {}).get("iss")
    delimited = (raw.get("space_delimited_claims") or {}).get(issuer, ()) if isinstance(issuer, str) else ()
    request = Request(
        protocol=protocol,
        principal=raw.get("source_principal") or "",
        source_ip=raw.get("source_ip") or "",
        remote_ip=raw.get("remote_ip") or "",
        destination_ip=raw.get("destination_ip") or "",
        port=int(raw.get("port") or 0),
        method=raw.get("method", "GET") or "",
        path=path,
        host=raw.get("host") or "",
        headers=_headers(raw.get("headers") or {}),
        sni=raw.get("sni") or "",
        claims=claims,
        space_delimited_claims=frozenset(delimited),
        dynamic_metadata=raw.get("dynamic_metadata"),
    )
    return request, rejected


def _headers(raw: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    headers: dict[str, tuple[str, ...]] = {}
    for name, value in raw.items():
        values = tuple(map(str, value)) if isinstance(value, list) else (str(value),)
        headers[name.lower()] = headers.get(name.lower(), ()) + values
    return headers


def _token_refusal(raw: Mapping[str, Any]) -> Decision | None:
    """A token that is present and does not verify is 401 before any policy; none at all is not an error."""
    if raw.get("jwt_state") in _REFUSED_TOKENS:
        return _UNAUTHORIZED
    claims, trusted = raw.get("jwt_claims"), raw.get("trusted_issuers")
    if claims is not None and trusted is not None and claims.get("iss") not in trusted:
        return _UNAUTHORIZED
    return None
