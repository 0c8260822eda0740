"""Cases of a Rego rule as data: a request, and what the rule must answer. Run over any engine.

    rule: shop/refunds/decision
    cases:
      - name: a clerk refunds up to the limit of clerks
        request: {claims: {roles: [clerk]}, method: POST, path: /orders/7/refund, body: '{"amount": 50}'}
        expected: {allowed: true, headers: {x-refund-roles: clerk}}

Of an answer only what `expected` names is compared: `allowed`, `status`, `body`, `headers`, `response_headers`,
`headers_to_remove`, `hint`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.decision.attributes import CheckAttributes
from app.decision.ports import ProviderAnswer, ProviderQuestion
from app.errors import AppError, ErrorCode
from app.limits import RegoLimits
from app.policy.case_fields import CaseFields
from app.policy.provider import Provider, RegoEngine, RegoSpec
from app.policy.rego_module import rule_path
from app.rego.decide_by_rule import decide_by_rule
from app.rego.rule_engine import RuleEngine

_REQUEST = ("principal", "claims", "method", "path", "host", "headers", "body", "source_ip")
_EXPECTED = ("allowed", "status", "body", "headers", "response_headers", "headers_to_remove", "hint")
_SECONDS = 30.0  # no matter of a Check's budget


@dataclass(frozen=True, slots=True)
class RegoCase:
    """One case: the question's parts, and what is expected of the answer."""

    name: str
    rule: str
    attributes: Mapping[str, Any]
    principal: str
    claims: Mapping[str, Any] | None
    expected: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RegoCaseResult:
    """As much of the answer as the case speaks of; `hint` says why a rule had none."""

    case: RegoCase
    got: Mapping[str, Any]
    hint: str

    @property
    def passed(self) -> bool:
        """Whether the rule answered as expected."""
        return self.got == self.case.expected


def read_rego_cases(value: Any) -> list[RegoCase]:
    """The cases in a parsed file.

    Raises:
        AppError: `INVALID`, with a sentence that names the member.
    """
    file = CaseFields(value, known=("rule", "cases"))
    rule = file.text("rule")
    rule_path(rule)
    return [_case(rule, each, f"cases[{index}]") for index, each in enumerate(file.items("cases"))]


async def run_rego_case(engine: RuleEngine, case: RegoCase, limits: RegoLimits) -> RegoCaseResult:
    """Ask the rule."""
    question = ProviderQuestion(
        provider=Provider(name="case", rego=RegoSpec(engine=RegoEngine.EMBEDDED, path=case.rule)),
        attributes=CheckAttributes(document=lambda: dict(case.attributes)),
        principal=case.principal,
        deadline=asyncio.get_running_loop().time() + _SECONDS,
        claims=case.claims,
    )
    answer = await decide_by_rule(engine, question, limits)
    return RegoCaseResult(case, {key: _part(answer, key) for key in case.expected}, answer.hint)


def _case(rule: str, value: Any, where: str) -> RegoCase:
    case = CaseFields(value, where, ("name", "request", "expected"))
    request, expected = case.fields("request", _REQUEST), case.object("expected")
    if not expected or "allowed" not in expected or set(expected) - {*_EXPECTED}:
        raise AppError(
            ErrorCode.INVALID, f"`{where}.expected` must have `allowed`, and else only {', '.join(_EXPECTED[1:])}"
        )
    body, headers = request.text("body"), request.fields("headers")
    sent = {name.lower(): ",".join(headers.header_values(name)) for name in headers.names()}
    if body:
        sent = {"content-type": "application/json", "content-length": str(len(body.encode())), **sent}
    http = {
        "method": request.text("method", "GET"),
        "path": request.text("path", "/"),
        "host": request.text("host"),
        "headers": sent,
        "body": body,
    }
    source = {"address": {"socketAddress": {"address": request.text("source_ip", "127.0.0.1")}}}
    return RegoCase(
        name=case.text("name"),
        rule=rule,
        attributes={"source": source, "request": {"http": http}},
        principal=request.text("principal"),
        claims=request.object("claims"),
        expected=expected,
    )


def _part(answer: ProviderAnswer, key: str) -> Any:
    effects = answer.effects
    match key:
        case "allowed":
            return answer.allowed
        case "hint":
            return answer.hint
        case "headers" | "response_headers":
            return dict(effects.headers if key == "headers" else effects.response_headers)
        case "headers_to_remove":
            return list(effects.headers_to_remove)
        case _:
            return getattr(effects, key)
