"""Decides one request (skeleton)."""

from __future__ import annotations

from collections.abc import Mapping

from app.policy.decision import Decision
from app.policy.request import Request
from app.policy.rule_table import RuleTable
from app.policy.target import Target

_NO_ANSWERS: Mapping[str, bool] = {}


def required_providers(table: RuleTable, target: Target, request: Request) -> tuple[str, ...]:
    """Which CUSTOM providers must answer before `decide`; none when a DENY already decides."""
    raise NotImplementedError


def decide(table: RuleTable, target: Target, request: Request, answers: Mapping[str, bool] = _NO_ANSWERS) -> Decision:
    """The decision, given the providers' answers. Total: never raises."""
    raise NotImplementedError
