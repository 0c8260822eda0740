"""Modules are checked before they are stored, by either engine, and whatever they do to it, the answer comes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from app.authority.policies.check_rego import RegoChecker
from app.errors import AppError, ErrorCode
from app.policy.rego_module import ModuleProblem, RegoModule
from app.rego.check_modules import ChildChecker, OpaChecker
from tests.support.opa import OPA, needs_opa
from tests.support.rego import LIMITS, module, needs_regopy

LIB = module("lib", "package shop.lib\n\nis_admin(name) if name in data.shop.lib.admins\n", {"admins": ["ann"]})
GOOD = module("authz", "package shop.authz\n\nimport data.shop.lib\n\nallow if lib.is_admin(input.name)\n")


@pytest.fixture(params=[pytest.param("rego-cpp", marks=needs_regopy), pytest.param("opa", marks=needs_opa)])
def checker(request: pytest.FixtureRequest) -> RegoChecker:
    """Each of them."""
    return ChildChecker(LIMITS) if request.param == "rego-cpp" else OpaChecker(Path(str(OPA)), LIMITS)


async def test_modules_that_fit_together_have_no_problems(checker: RegoChecker) -> None:
    """Functions and data of other modules are known."""
    assert [] == list(await checker.check([GOOD, LIB]))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("package bad\n\nx := \n", 3),
        ("package bad\n\n\nallow if {\n", None),
        ("package bad\n\nallow if nosuch(1)\n", 3),
        ("package bad\n\nx := 1\n\ny if x == z(1)\nz(a) := y\n", None),
    ],
)
async def test_an_error_has_its_module_and_its_line(checker: RegoChecker, text: str, line: int | None) -> None:
    """Syntax, unknown functions, recursion."""
    errors = [problem for problem in await checker.check([GOOD, LIB, module("bad", text)]) if problem.is_error]

    assert errors
    assert {"shop/bad.rego"} == {error.file for error in errors}
    if line is not None and "z(" not in text:
        assert errors[0].line in (line, line + 1)  # OPA names the line after an end that comes too early


@needs_regopy
async def test_a_module_that_crashes_the_checker_is_refused() -> None:
    """The child is gone; the authority is not."""
    crashing = module("crashing", f"package crashing\n\nx := {'[' * 5000}1{']' * 5000}\n")

    assert ErrorCode.INVALID == await _refused(ChildChecker(LIMITS), [crashing])


@needs_regopy
async def test_a_module_that_takes_too_long_is_refused() -> None:
    """It would take as long for every request."""
    endless = module(
        "endless",
        "package endless\n\nx if {\n  some i in numbers.range(1, 2000)\n  some j in numbers.range(1, 2000)\n  i * j == 0\n}\n",
    )

    assert ErrorCode.INVALID == await _refused(ChildChecker(replace(LIMITS, load_seconds=0.5)), [endless])


@needs_regopy
@pytest.mark.parametrize(
    "text",
    [
        "x if {\n  some i in numbers.range(1, 2000)\n  some j in numbers.range(1, 2000)\n  i * j == 0\n}\n",
        "x := count(numbers.range(1, 100000000))\n",
        "x := nosuch(1)\n",
    ],
    ids=["endless", "greedy", "wrong"],
)
async def test_what_a_stored_module_does_by_now_keeps_no_other_out(text: str) -> None:
    """It was fine when it was stored, and waited for the day."""
    bomb = module("bomb", f"package bomb\n\nlib := data.shop.lib\n{text}")

    assert [] == list(await ChildChecker(LIMITS).check([bomb, GOOD, LIB], changed=[LIB.file]))


@needs_regopy
async def test_a_change_that_goes_in_circles_with_a_stored_module_is_found() -> None:
    """Each is fine without the other."""
    stored = module("authz", "package shop.authz\n\nallow if data.shop.lib.x\n")
    changed = module("lib", "package shop.lib\n\nx if data.shop.authz.allow\n")
    problems = await ChildChecker(LIMITS).check([stored, changed], changed=[changed.file])

    assert [("shop/lib.rego", True)] == [(problem.file, problem.is_error) for problem in problems]


@needs_regopy
async def test_many_modules_are_checked_in_the_time_of_one() -> None:
    """And the one that is wrong among them is found."""
    body = "".join(f"r{rule} if input.x == {rule}\n" for rule in range(10))
    many = [module(f"m{index}", f"package many.p{index}\n\n{body}") for index in range(100)]
    many[70] = module("m70", "package many.p70\n\nx := nosuch(1)\n")
    problems = await ChildChecker(replace(LIMITS, load_seconds=60.0)).check(many)

    assert ["shop/m70.rego"] == [problem.file for problem in problems]


@needs_regopy
async def test_rules_that_contradict_each_other_without_input_are_a_doubt() -> None:
    """With a real input they may not."""
    text = "package doubt\n\nx := 1 if not input.a\nx := 2 if not input.b\n"
    (problem,) = await ChildChecker(LIMITS).check([module("doubt", text)])

    assert (
        ModuleProblem(
            file="shop/doubt.rego",
            message="package doubt fails for an empty input: rules contradict each other",
            is_error=False,
        )
        == problem
    )


@needs_opa
async def test_opa_finds_what_rego_cpp_does_not() -> None:
    """Functions of modules that are gone, variables that nothing binds, and data where a rule stands."""
    checker = OpaChecker(Path(str(OPA)), LIMITS)
    unsafe = module("unsafe", "package unsafe\n\nx := y\n")
    clash = module("clash", "package clash\n\nx := 1\n", {"x": 2})

    assert ["undefined function data.shop.lib.is_admin"] == [found.message for found in await checker.check([GOOD])]
    assert ["var y is unsafe"] == [problem.message for problem in await checker.check([unsafe])]
    assert ["conflicting rule for data path clash/x found"] == [
        problem.message for problem in await checker.check([clash])
    ]


async def test_no_module_leads_the_checking_program_elsewhere(tmp_path: Path) -> None:
    """Of annotations `opa check` reads schemas, and what a schema refers to: any URL, and any file of the authority."""
    seen = tmp_path / "seen"
    program = tmp_path / "opa"
    program.write_text(f'#!/bin/sh\nfor last; do :; done\ncat "$last"/*/*.rego > {seen}\n')
    program.chmod(0o700)
    text = 'package shop.authz\n\n#\u00a0 METADATA \n# schemas:\n# - input: {$ref: "http://10.0.0.1/"}\nallow := "METADATA"\n'
    assert [] == list(await OpaChecker(program, LIMITS).check([module("authz", text)]))

    assert text.replace(" METADATA ", " metadata ") == seen.read_text()


async def test_a_program_that_is_not_there_is_no_engine(tmp_path: Path) -> None:
    """The document is then stored with a warning, by whoever asked."""
    assert ErrorCode.FAILED_PRECONDITION == await _refused(OpaChecker(tmp_path / "opa", LIMITS), [GOOD])


async def test_a_program_that_is_another_is_no_verdict() -> None:
    """What ends with an error and without a report has not said that the modules are fine."""
    assert ErrorCode.INVALID == await _refused(OpaChecker(Path("/bin/false"), LIMITS), [GOOD])


async def _refused(checker: RegoChecker, modules: Sequence[RegoModule]) -> ErrorCode:
    with pytest.raises(AppError) as caught:
        await checker.check(modules)
    return caught.value.code
