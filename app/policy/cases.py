"""Runs decision cases (skeleton)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.limits import PolicyLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """What one case expected and got."""

    name: str
    expected: str
    got: str
    policy: str
    rule: str

    @property
    def passed(self) -> bool:
        """Whether the engine decided as expected."""
        return self.expected == self.got


@dataclass(frozen=True, slots=True)
class CaseReport:
    """The results of a file of cases."""

    results: tuple[CaseResult, ...]

    def to_json(self) -> dict[str, Any]:
        """`{total, passed, failed, failures: [{name, expected, got, policy, rule}]}`."""
        raise NotImplementedError


def run_case(case: Any, limits: PolicyLimits | None = None) -> CaseResult:
    """Decide one case.

    Raises:
        AppError: `INVALID` when it is not a case.
    """
    raise NotImplementedError


def run_cases(cases: Sequence[Any] | Any, limits: PolicyLimits | None = None) -> CaseReport:
    """Decide all cases of a parsed file.

    Raises:
        AppError: `INVALID` when the file is not a list of cases.
    """
    raise NotImplementedError
