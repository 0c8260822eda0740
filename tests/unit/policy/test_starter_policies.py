"""The policies that ship do what their decision cases say, and have no errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.policy.cases import run_cases
from app.policy.validate import errors_of, validate
from app.serving.documents_text import TextBounds, parse_yaml
from tests.support.policies import LIMITS, document

_SHIPPED = Path(__file__).parents[3] / "policies"
_POLICIES = sorted(_SHIPPED.glob("*.yaml"))
_CASES = sorted((_SHIPPED / "cases").glob("*.yaml"))


def _load(path: Path) -> Any:
    """As the command line reads it: without anchors and other things that two readers could take differently."""
    (value,) = parse_yaml(path.read_bytes(), TextBounds.of(LIMITS, max_bytes=65_536))
    return value


def test_every_policy_has_its_cases() -> None:
    """No policy ships without cases."""
    assert {path.name for path in _POLICIES} <= {path.name for path in _CASES}
    assert _POLICIES


@pytest.mark.parametrize("path", _CASES, ids=lambda path: path.stem)
def test_cases_hold(path: Path) -> None:
    """Each case comes out as written."""
    report = run_cases(_load(path)).to_json()

    assert [] == report["failures"]
    assert report["total"] == report["passed"] > 0


@pytest.mark.parametrize("path", _POLICIES, ids=lambda path: path.stem)
def test_cases_are_about_what_ships(path: Path) -> None:
    """The policy in the cases is the one beside them."""
    for case in _load(_SHIPPED / "cases" / path.name):
        assert [_load(path)] == case["policies"], case["name"]


@pytest.mark.parametrize("path", _POLICIES, ids=lambda path: path.stem)
def test_policies_have_no_errors(path: Path) -> None:
    """What ships can be applied."""
    assert () == errors_of(validate(document(_load(path)), LIMITS))
