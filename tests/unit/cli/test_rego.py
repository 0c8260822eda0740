"""`gatehouse rego`: modules checked, cases run, modules pushed; exit codes as everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import structlog
import yaml

from tests.support.rego import module_document, needs_regopy

ROOT = Path(__file__).parents[3]
EXAMPLE = str(ROOT / "policies" / "rego" / "refunds.yaml")
CASES = str(ROOT / "policies" / "cases" / "rego" / "refunds.yaml")


@pytest.fixture(autouse=True)
def _logging_as_before():
    # The command line quietens the log of its process, which here is everybody's.
    yield
    structlog.reset_defaults()


@pytest.fixture(name="write")
def _write(tmp_path):
    def write(text: str, name: str = "module.yaml", **data) -> str:
        path = tmp_path / name
        path.write_text(yaml.safe_dump(module_document("authz", text, data or None)), encoding="utf-8")
        return str(path)

    return write


@needs_regopy
def test_the_example_is_fine_and_holds_its_cases(run):
    """What ships can be tried with these two lines."""
    checked = run("rego", "check", EXAMPLE)
    tested = run("rego", "test", EXAMPLE, "--cases", CASES)

    assert (0, "1 module, 0 errors, 0 warnings\n") == (checked.code, checked.out)
    assert (0, "10 cases: 10 passed, 0 failed\n") == (tested.code, tested.out)


@needs_regopy
def test_an_error_is_named_with_its_line_and_a_doubt_is_no_error(run, write):
    """Exit 3 with errors, 0 with doubts alone."""
    bad = run("rego", "check", write("package a\n\nx := \n"))
    doubt = run("rego", "check", write('package a\n\nx if net.cidr_contains("10.0.0.0/8", input.ip)\n'), "-o", "json")

    assert (3, "error: shop/authz.rego: line 3: Invalid assignment operator") == (bad.code, bad.out.splitlines()[0])
    assert (0, [3]) == (
        doubt.code,
        [int(each["message"].split(":")[0][5:]) for each in json.loads(doubt.out)["problems"]],
    )


@needs_regopy
def test_a_case_that_does_not_hold_says_what_came_instead(run, write, tmp_path):
    """Exit 3; the hint says why a rule had no answer."""
    cases = tmp_path / "cases.yaml"
    cases.write_text("rule: a/allow\ncases:\n- {name: one, request: {path: /x}, expected: {allowed: true}}\n")
    result = run("rego", "test", write("package a\n\nallow if input.parsed_path[0] == 1\n"), "--cases", str(cases))

    assert 3 == result.code
    assert "FAIL one: expected {'allowed': True}, got {'allowed': False} (a/allow: the rule is undefined" in result.out


@pytest.mark.parametrize(
    ("cases", "said"),
    [
        ("rule: a/../b\ncases: []\n", "a rule is named by its package and its name"),
        ("rule: a/b\ncases: []\n", "there are no cases"),
        ("rule: a/b\ncases: [{name: x, expected: {}}]\n", "`cases[0].expected` must have `allowed`"),
        ("rule: a/b\ncases: [{name: x, request: {pth: /}, expected: {allowed: true}}]\n", "did you mean `path`?"),
        ("rule: a/b\ncases: [{name: x, expected: {allowed: true, colour: red}}]\n", "`cases[0].expected` must have"),
    ],
)
def test_bad_cases_are_a_usage_error(run, write, tmp_path, cases, said):
    """Exit 2, before any engine is started."""
    path = tmp_path / "cases.yaml"
    path.write_text(cases)
    result = run("rego", "test", write("package a\n"), "--cases", str(path))

    assert (2, True) == (result.code, said in result.err)


def test_files_without_a_module_are_a_usage_error(run, tmp_path):
    """A policy beside modules is left alone; alone it is no module."""
    path = tmp_path / "mesh.yaml"
    path.write_text("apiVersion: gatehouse.dev/v1\nkind: Mesh\nmetadata: {name: mesh}\n")
    result = run("rego", "check", str(path))

    assert (2, True) == (result.code, "there is no RegoModule" in result.err)


def test_a_server_that_is_away_takes_no_modules(run):
    """One line, and an exit code that is no success."""
    result = run("rego", "push", EXAMPLE, "--opa", "http://127.0.0.1:9")

    assert (1, True) == (result.code, "OPA cannot be administered" in result.err)
