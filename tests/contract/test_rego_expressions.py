"""What expressions are in OPA (tests/data/rego_expressions.json, values from OPA 1.22.3) they are on every real engine.

For the embedded engine this is the list of what may be relied on: who finds that it differs finds it here, and what is
known to differ is refused there or named in the guide.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from app.policy.rego_module import only_in_opa, otherwise_in_opa
from app.rego.rule_engine import RuleValue
from tests.support.rego import module, request_input
from tests.support.rego_engines import REAL_ENGINES, real_engine

EXPRESSIONS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "rego_expressions.json").read_text())
# In docs/guides/rego.md: values of different types and lists compare otherwise, sets have another order, upper and lower
# know ASCII only, and sprintf has no %q.
NAMED_IN_THE_GUIDE = {
    '"a" > 1',
    "null < false",
    "[1,2] < [1,10]",
    "[x | some x in {10, 9, 100}]",
    'upper("é")',
    'sprintf("%05d|%x|%q",[42,255,"q"])',
}


@pytest.mark.parametrize("engine_name", REAL_ENGINES)
async def test_expressions_have_the_values_of_opa(engine_name: str, tmp_path: Path) -> None:
    """Each as a rule of its own, so that one that is undefined hides no other."""
    asked = {
        expression: value
        for expression, value in EXPRESSIONS.items()
        if engine_name == "opa"
        or not (only_in_opa(expression) or otherwise_in_opa(expression) or expression in NAMED_IN_THE_GUIDE)
    }
    rules = [f"all[{json.dumps(expression)}] := {_term(expression)}" for expression in asked]
    held = module("expressions", "package expressions\n\n" + "\n".join(rules) + "\n")
    async with real_engine(engine_name, [held], tmp_path) as engine:
        found = await engine.evaluate(("expressions", "all"), request_input(), deadline=time.monotonic() + 30)

    assert RuleValue(True, asked) == found
    assert len(asked) > 90


def _term(expression: str) -> str:
    if expression.startswith("not "):
        return f"true if {expression}"
    if expression.startswith("walk("):
        return f"[p | {expression.removesuffix(')')}, p)]"
    return expression
