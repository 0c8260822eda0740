"""The module that ships as an example decides on every engine what its cases say."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from app.authority.policies.prepare_documents import prepare
from app.limits import Limits, PolicyLimits
from app.policy.document import parse_document
from app.policy.rego_module import RegoModule, rego_module_from_document
from app.rego.rego_cases import read_rego_cases, run_rego_case
from tests.support.opa import needs_opa, opa_command
from tests.support.rego import LIMITS
from tests.support.rego_engines import REAL_ENGINES, real_engine

FOLDER = Path(__file__).parents[2] / "policies" / "rego"
DOCUMENTS = list(yaml.safe_load_all((FOLDER / "refunds.yaml").read_text()))


def _module() -> RegoModule:
    return rego_module_from_document(parse_document(DOCUMENTS[0], PolicyLimits()))


def test_the_document_holds_the_module_as_it_is_tested() -> None:
    """The text in the document is the file beside it, and its documents are fit to be stored."""
    assert (FOLDER / "refunds.rego").read_text() == _module().rego
    prepared = [prepare(document, None, Limits(), now=datetime(2026, 11, 26, tzinfo=UTC)) for document in DOCUMENTS]
    assert [("refunds", ()), ("refunds", ()), ("refunds", ()), ("backoffice", ())] == [
        (each.document.name, each.warnings) for each in prepared
    ]


@pytest.mark.parametrize("engine_name", REAL_ENGINES)
async def test_every_case_of_the_example(engine_name: str, tmp_path: Path) -> None:
    """On the embedded engine and on OPA alike."""
    cases = read_rego_cases(yaml.safe_load((FOLDER.parent / "cases" / "rego" / "refunds.yaml").read_text()))
    async with real_engine(engine_name, [_module()], tmp_path) as engine:
        for case in cases:
            result = await run_rego_case(engine, case, LIMITS)
            assert case.expected == result.got, case.name
    assert len(cases) >= 10


@pytest.mark.parametrize("engine_name", REAL_ENGINES)
async def test_a_case_that_does_not_hold_fails(engine_name: str, tmp_path: Path) -> None:
    """And says what came instead."""
    value = {"rule": "shop/refunds/decision", "cases": [{"name": "x", "request": {}, "expected": {"allowed": True}}]}
    async with real_engine(engine_name, [_module()], tmp_path) as engine:
        result = await run_rego_case(engine, read_rego_cases(value)[0], LIMITS)

    assert (False, {"allowed": False}) == (result.passed, result.got)


@needs_opa
async def test_the_tests_of_the_example_pass_in_opa() -> None:
    """`opa test`, and `opa check --strict`."""
    assert (0, "") == await opa_command("check", "--strict", str(FOLDER))
    code, output = await opa_command("test", str(FOLDER))
    assert (0, True) == (code, "PASS: 6/6" in output)
