"""The module that ships as an example decides on every engine what its cases say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from app.authority.policies.prepare_documents import prepare
from app.decision.ports import ProviderAnswer
from app.limits import Limits, PolicyLimits
from app.policy.document import parse_document
from app.policy.rego_module import RegoModule, rego_module_from_document
from app.rego.decide_by_rule import decide_by_rule
from tests.support.opa import needs_opa, opa_command
from tests.support.rego import LIMITS, question, request_attributes
from tests.support.rego_engines import REAL_ENGINES, real_engine

FOLDER = Path(__file__).parents[2] / "policies" / "rego"
DOCUMENTS = list(yaml.safe_load_all((FOLDER / "refunds.yaml").read_text()))
CASES = yaml.safe_load((FOLDER / "refunds-cases.yaml").read_text())


def _module() -> RegoModule:
    return rego_module_from_document(parse_document(DOCUMENTS[0], PolicyLimits()))


def test_the_document_holds_the_module_as_it_is_tested() -> None:
    """The text in the document is the file beside it, and its documents are fit to be stored."""
    assert (FOLDER / "refunds.rego").read_text() == _module().rego
    assert [()] * 2 == [prepare(document, None, Limits()).warnings for document in DOCUMENTS[:2]]
    assert ["refunds", "backoffice"] == [prepare(document, None, Limits()).document.name for document in DOCUMENTS[2:]]


@pytest.mark.parametrize("engine_name", REAL_ENGINES)
async def test_every_case_of_the_example(engine_name: str, tmp_path: Path) -> None:
    """On the embedded engine and on OPA alike."""
    async with real_engine(engine_name, [_module()], tmp_path) as engine:
        for case in CASES["cases"]:
            asked = _question(case["request"])
            answer = await decide_by_rule(engine, asked, LIMITS)
            assert case["expected"] == _described(answer, case["expected"]), case["name"]


def _question(request: dict[str, Any]) -> Any:
    headers = {"content-type": "application/json", "content-length": str(len(request["body"]))}
    attributes = request_attributes("POST", request["path"], headers, request["body"])
    claims = {"roles": request["roles"]} if "roles" in request else None
    return question(CASES["rule"], attributes=attributes, principal=request["principal"], claims=claims)


def _described(answer: ProviderAnswer, expected: dict[str, Any]) -> dict[str, Any]:
    """As much of an answer as the case speaks of."""
    effects = answer.effects
    found = {
        "allowed": answer.allowed,
        "status": effects.status,
        "body": effects.body,
        "headers": dict(effects.headers),
    }
    return {key: found[key] for key in expected}


@needs_opa
async def test_the_tests_of_the_example_pass_in_opa() -> None:
    """`opa test`, and `opa check --strict`."""
    assert (0, "") == await opa_command("check", "--strict", str(FOLDER))
    code, output = await opa_command("test", str(FOLDER))
    assert (0, True) == (code, "PASS: 6/6" in output)
