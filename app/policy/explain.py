"""Explains one decision (skeleton)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.policy.decision import Decision
from app.policy.request import Request
from app.policy.rule_table import RuleTable
from app.policy.target import Target

_NO_ANSWERS: Mapping[str, bool] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The first field of a rule that did not hold: JSON pointer in the policy, its values, what the request had."""

    pointer: str
    field: str
    wanted: tuple[str, ...]
    got: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsideredRule:
    """One attached rule: whether it matched and, when not, what failed first."""

    policy: str  # <namespace>/<name>
    rule: str
    action: str
    enforced: bool  # false for dry-run
    matched: bool
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The decision, every rule considered, and the rule that came nearest to allowing."""

    decision: Decision
    rules: tuple[ConsideredRule, ...]
    nearest_miss: ConsideredRule | None
    path_readings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The explanation as JSON."""
        raise NotImplementedError


def explain(
    table: RuleTable, target: Target, request: Request, answers: Mapping[str, bool] = _NO_ANSWERS
) -> Explanation:
    """The same walk as `decide`, with every rule considered."""
    raise NotImplementedError
