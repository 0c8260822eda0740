"""From a Check to a Rego rule and back: the input document, the engine, the answer.

Whatever goes wrong on the way is an answer that denies, with a hint for the operator; nothing is raised.
"""

from __future__ import annotations

import asyncio
import time

import structlog

from app.decision.ports import ProviderAnswer, ProviderQuestion
from app.errors import AppError
from app.limits import RegoLimits
from app.policy.rego_input import CallerFacts, input_document, input_json
from app.policy.rego_module import rule_path
from app.policy.rego_result import read_result
from app.rego.rule_engine import RuleEngine

_log = structlog.get_logger(__name__)

_UNDEFINED = "the rule is undefined for this request; give it a default"


async def decide_by_rule(engine: RuleEngine, question: ProviderQuestion, limits: RegoLimits) -> ProviderAnswer:
    """The answer of the rule that the provider names. Never raises; in doubt it denies."""
    assert question.provider.rego is not None
    rule = question.provider.rego.path
    try:
        path = rule_path(rule)
        document = question.attributes.document
        caller = CallerFacts(principal=question.principal, claims=question.claims)
        asked = input_json(input_document({} if document is None else document(), caller, limits), limits)
        left = question.deadline - asyncio.get_running_loop().time()
        found = await engine.evaluate(path, asked, deadline=time.monotonic() + left)
    except AppError as error:
        return _denied(rule, error.detail)
    except Exception as error:  # noqa: BLE001 - an exception would be an error to Envoy, and may fail open
        _log.error("rego_failed", rule=rule, exc_info=error)
        return _denied(rule, "evaluation failed inside the worker; its log has the reason")
    if not found.is_defined:
        return _denied(rule, _UNDEFINED)
    verdict = read_result(found.value)
    return _denied(rule, verdict.hint) if verdict.hint else ProviderAnswer(verdict.allowed, verdict.effects)


def _denied(rule: str, hint: str) -> ProviderAnswer:
    return ProviderAnswer(False, hint=f"{rule}: {hint}")
