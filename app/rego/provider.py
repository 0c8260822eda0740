"""From a Check to a Rego rule and back: the input document, the engine, the verdict.

Whatever goes wrong on the way is a verdict that denies, with a hint for the operator; nothing is raised.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog

from app.errors import AppError
from app.limits import RegoLimits
from app.policy.rego_input import CallerFacts, input_document, input_json
from app.policy.rego_result import UNDEFINED, RegoVerdict, read_result
from app.rego.rule_engine import RuleEngine

_log = structlog.get_logger(__name__)


async def decide_by_rule(
    engine: RuleEngine,
    path: tuple[str, ...],
    attributes: Mapping[str, Any],
    caller: CallerFacts,
    *,
    deadline: float,
    limits: RegoLimits,
) -> RegoVerdict:
    """The verdict of a rule on a request (attributes as protobuf JSON). Never raises; in doubt it denies."""
    rule = "/".join(path)
    try:
        document = input_json(input_document(attributes, caller, limits), limits)
    except AppError as error:
        return RegoVerdict(False, hint=f"no input for {rule}: {error.detail}")
    try:
        found = await engine.evaluate(path, document, deadline=deadline)
    except AppError as error:
        return RegoVerdict(False, hint=f"{rule}: {error.detail}")
    except Exception as error:  # noqa: BLE001 - an exception would be an error to Envoy, and may fail open
        _log.error("rego_failed", rule=rule, exc_info=error)
        return RegoVerdict(False, hint=f"{rule}: evaluation failed inside the worker; its log has the reason")
    if not found.is_defined:
        return RegoVerdict(False, hint=f"{rule}: {UNDEFINED.hint}")
    verdict = read_result(found.value)
    return RegoVerdict(False, hint=f"{rule}: {verdict.hint}") if verdict.hint else verdict
