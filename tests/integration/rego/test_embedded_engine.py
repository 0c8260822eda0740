"""The Rego child: what a module does to it harms nobody else, and it is there again for the next question."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.errors import AppError, ErrorCode
from app.limits import RegoLimits
from app.policy.rego_module import ALL_MODULES, ModuleSelection, RegoModule
from app.rego import process
from app.rego.embedded import EmbeddedEngine
from app.rego.rule_engine import UNDEFINED_RULE, RuleValue
from tests.support.rego import LIMITS, module, modules, needs_regopy, request_input

pytestmark = needs_regopy

GOOD = module("good", "package good\n\nyes := true\n\npath := input.parsed_path[0]\n")
ENDLESS = module(
    "endless",
    """package endless

never if {
    some i in numbers.range(1, 2000)
    some j in numbers.range(1, 2000)
    i * j == 0
}
""",
)
GREEDY = module("greedy", "package greedy\n\nmuch := count(numbers.range(1, 100000000))\n")
CRASHING = module("crashing", f"package crashing\n\nx := {'[' * 5000}1{']' * 5000}\n")


@asynccontextmanager
async def _engine(*held: RegoModule, limits: RegoLimits = LIMITS, **kwargs: Any) -> AsyncIterator[EmbeddedEngine]:
    serving = modules(*held)
    engine = EmbeddedEngine(lambda: serving, limits, **kwargs)
    try:
        yield engine
    finally:
        await engine.close()


async def _ask(
    engine: EmbeddedEngine, path: str, selection: ModuleSelection = ALL_MODULES, within: float = 10
) -> RuleValue:
    deadline = time.monotonic() + within
    return await engine.evaluate(
        tuple(path.split("/")), request_input(path="/a"), deadline=deadline, selection=selection
    )


async def _refused(engine: EmbeddedEngine, path: str, **kwargs: Any) -> AppError:
    with pytest.raises(AppError) as caught:
        await _ask(engine, path, **kwargs)
    return caught.value


async def test_a_child_that_is_killed_is_replaced() -> None:
    """By SIGSEGV, as native code would: the next question has an answer from another process."""
    async with _engine(GOOD) as engine:
        await _ask(engine, "good/yes")
        first = engine.pid
        os.kill(first, signal.SIGSEGV)

        # Whether this question or a later one meets the dead child, none of them hangs.
        answers = [await asyncio.gather(_ask(engine, "good/yes"), return_exceptions=True) for _ in range(3)]

        assert [RuleValue(True, True)] == answers[-1]
        assert first != engine.pid
        assert 1 == engine.restarts


async def test_a_rule_that_does_not_end_is_ended() -> None:
    """Within the bound; the question is answered with an error, and other rules go on in a new child."""
    async with _engine(GOOD, ENDLESS, limits=replace(LIMITS, evaluate_seconds=0.3)) as engine:
        await _ask(engine, "good/yes")
        error = await _refused(engine, "endless/never")

        assert ErrorCode.TIMEOUT == error.code
        assert RuleValue(True, True) == await _ask(engine, "good/yes")


async def test_a_deadline_that_passes_first_is_kept() -> None:
    """A Check's own budget is shorter than the bound of a rule."""
    async with _engine(GOOD, ENDLESS) as engine:
        await _ask(engine, "good/yes")
        started = time.monotonic()
        await _refused(engine, "endless/never", within=0.2)

        assert time.monotonic() - started < LIMITS.evaluate_seconds


async def test_a_rule_that_wants_all_memory_ends_its_child_only() -> None:
    """The address space is bounded: the allocation fails in the child."""
    async with _engine(GOOD, GREEDY) as engine:
        error = await _refused(engine, "greedy/much")

        assert ErrorCode.UNAVAILABLE == error.code
        assert RuleValue(True, True) == await _ask(engine, "good/yes")


async def test_memory_is_bounded_by_its_setting_and_not_by_what_the_library_reserves() -> None:
    """Megabytes of data are fine, and a rule that takes little by little what it may not have is ended."""
    names = {f"name-{index}": [index] * 10 for index in range(3_000)}
    rich = module("rich", "package rich\n\nfound := data.rich.names[input.parsed_path[0]][0]\n", {"names": names})
    text = (
        'package hungry\n\nx := count([s | some n in numbers.range(1, 100000); s := sprintf("%d-%s", [n, "text"])])\n'
    )
    hungry, few = module("hungry", text), replace(LIMITS, memory_bytes=67_108_864)
    async with _engine(rich, limits=LIMITS) as engine:
        asked = request_input(path="/name-2999")
        found = await engine.evaluate(("rich", "found"), asked, deadline=time.monotonic() + 10)
        assert RuleValue(True, 2999) == found
    async with _engine(hungry, limits=LIMITS) as engine:
        assert RuleValue(True, 100_000) == await _ask(engine, "hungry/x")
    async with _engine(hungry, GOOD, limits=few) as engine:
        assert ErrorCode.UNAVAILABLE == (await _refused(engine, "hungry/x")).code
        assert RuleValue(True, True) == await _ask(engine, "good/yes")


async def test_a_module_that_crashes_the_library_denies_and_rests() -> None:
    """Starting again and again would keep a core busy: after the burst nothing is started until the window has passed."""
    now = [1000.0]
    limits = replace(LIMITS, child_restart_burst=2)
    async with _engine(CRASHING, limits=limits, monotonic=lambda: now[0]) as engine:

        async def refused() -> str:
            with pytest.raises(AppError) as caught:
                await engine.evaluate(("crashing", "x"), b"{}", deadline=now[0] + 10)
            return caught.value.detail

        assert "the process that evaluates ended" == await refused()
        assert ["the process that evaluates ended"] * 2 == [await refused(), await refused()]
        assert "the Rego child ended too often of late and rests" == await refused()
        now[0] += limits.child_restart_window_seconds + 1
        assert "the process that evaluates ended" == await refused()


async def test_modules_of_the_next_snapshot_answer_as_soon_as_they_are_loaded() -> None:
    """Until then those before do, so that a change denies nobody; and from then on never again."""
    serving = [modules(GOOD)]
    engine = EmbeddedEngine(lambda: serving[0], LIMITS)
    try:
        assert RuleValue(True, "a") == await _ask(engine, "good/path")
        serving[0] = modules(module("good", 'package good\n\npath := "changed"\n'))
        answers = [(await _ask(engine, "good/path")).value]
        while answers[-1] != "changed":
            answers.append((await _ask(engine, "good/path")).value)
        answers += [(await _ask(engine, "good/path")).value for _ in range(5)]
        assert ["a", "changed"] == sorted({*answers})
        assert answers == sorted(answers)
        assert 0 == engine.restarts
        serving[0] = modules()
        assert "there is no RegoModule in the set" == (await _refused(engine, "good/path")).detail
    finally:
        await engine.close()


async def _outcome(engine: EmbeddedEngine) -> RuleValue | AppError:
    try:
        return await _ask(engine, "good/yes")
    except AppError as error:
        return error


async def test_modules_that_do_not_load_replace_those_before() -> None:
    """The set says so; to go on with what was would be to decide by what nobody wants any more."""
    serving = [modules(GOOD)]
    engine = EmbeddedEngine(lambda: serving[0], LIMITS)
    try:
        await _ask(engine, "good/yes")
        serving[0] = modules(module("good", "package good\n\nx := \n"))
        async with asyncio.timeout(20):
            while not isinstance(answer := await _outcome(engine), AppError):
                assert RuleValue(True, True) == answer
        assert "do not load" in answer.detail
    finally:
        await engine.close()


async def test_a_selection_sees_its_modules_only() -> None:
    """By name or label; names that nothing has are an error, never fewer modules."""
    other = replace(module("other", "package other\n\nyes := data.good.yes\n"), labels={"team": "b"})
    async with _engine(GOOD, other) as engine:
        assert RuleValue(True, True) == await _ask(engine, "other/yes")
        assert UNDEFINED_RULE == await _ask(engine, "other/yes", ModuleSelection(names=("other",)))
        assert UNDEFINED_RULE == await _ask(engine, "other/yes", ModuleSelection(labels=(("team", "b"),)))
        assert RuleValue(True, True) == await _ask(engine, "good/yes", ModuleSelection(names=("shop/good",)))
        assert (
            "RegoModule gone" in (await _refused(engine, "good/yes", selection=ModuleSelection(names=("gone",)))).detail
        )
        error = await _refused(engine, "good/yes", selection=ModuleSelection(labels=(("team", "c"),)))
        assert ErrorCode.FAILED_PRECONDITION == error.code


async def test_a_module_that_does_not_parse_denies_with_its_reason() -> None:
    """It was refused when it was stored; should one come all the same, nothing is answered."""
    async with _engine(GOOD, module("bad", "package bad\n\nx := \n")) as engine:
        for _ in range(2):
            assert (
                "the Rego modules do not load: Invalid assignment operator"
                == (await _refused(engine, "good/yes")).detail
            )
        assert 0 == engine.restarts


async def test_a_function_that_only_opa_has_is_an_error_and_not_undefined() -> None:
    """`not net.cidr_contains(...)` would be true here, whatever the address."""
    text = 'package only_opa\n\nallow if not net.cidr_contains("10.0.0.0/8", "10.0.0.1")\n'
    async with _engine(module("only-opa", text)) as engine:
        assert ErrorCode.INVALID == (await _refused(engine, "only_opa/allow")).code


async def test_a_result_beyond_the_bound_is_no_answer() -> None:
    """A module does not fill the worker's memory either; its child goes on for others."""
    text = 'package big\n\nx := [s | some i in numbers.range(1, 300); s := sprintf("%d-%s", [i, "text"])]\n'
    async with _engine(GOOD, module("big", text), limits=replace(LIMITS, max_result_bytes=1_000)) as engine:
        assert "the value of the rule is larger than rego.max_result_bytes" == (await _refused(engine, "big/x")).detail
        assert (RuleValue(True, True), 0) == (await _ask(engine, "good/yes"), engine.restarts)


async def test_a_result_that_is_nested_too_deep_does_not_end_the_child() -> None:
    """How deep that is differs between versions of Python."""
    deep = '"["' + " | some _ in numbers.range(1, 1200)"
    text = f'package deep\n\nx := json.unmarshal(concat("", array.concat([{deep}], [{deep.replace("[", "]")}])))\n'
    async with _engine(GOOD, module("deep", text)) as engine:
        (found,) = await asyncio.gather(_ask(engine, "deep/x"), return_exceptions=True)
        assert isinstance(found, RuleValue) or str(found).endswith("it is nested too deep")
        assert (RuleValue(True, True), 0) == (await _ask(engine, "good/yes"), engine.restarts)


async def test_a_rule_that_is_none_breaks_no_other() -> None:
    """Whatever a provider asks for, rules that are asked for later are what they are."""
    text = "package odd\n\nf(x) := x\n\nbad := nosuch(1)\n\nrecursive if g(1)\n\ng(x) if recursive\n"
    rules = module("rules", "package rules\n\n" + "".join(f"r{index} := {index}\n" for index in range(12)))
    async with _engine(module("odd", text), rules) as engine:
        answers = []
        for index, name in enumerate(("odd/f", "odd/bad", "odd/recursive", "odd/g", "odd/none", "none/none")):
            for path in (name, name, f"rules/r{index}"):
                answers += await asyncio.gather(_ask(engine, path), return_exceptions=True)
        found = [await _ask(engine, f"rules/r{index}") for index in range(12)]

        assert [RuleValue(True, index) for index in range(6)] == answers[2::3]
        assert [RuleValue(True, index) for index in range(12)] == found


async def test_questions_beyond_the_bound_are_refused_at_once() -> None:
    """A queue that does not drain is no service."""
    async with _engine(GOOD, limits=replace(LIMITS, max_waiting=2)) as engine:
        answers = await asyncio.gather(*(_ask(engine, "good/yes") for _ in range(4)), return_exceptions=True)

        refused = [answer for answer in answers if isinstance(answer, AppError)]
        assert [ErrorCode.OVERLOADED] * 2 == [error.code for error in refused]


async def test_a_cancelled_question_leaves_the_engine_usable() -> None:
    """A call that Envoy gave up must not shift the answers of those after it."""
    async with _engine(GOOD, ENDLESS) as engine:
        await _ask(engine, "good/yes")
        question = asyncio.create_task(_ask(engine, "endless/never"))
        await asyncio.sleep(0.05)
        question.cancel()
        await asyncio.gather(question, return_exceptions=True)

        assert RuleValue(True, "a") == await _ask(engine, "good/path")


async def test_the_child_has_given_up_what_it_does_not_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """No environment, no network, no other program, no root, bounded memory: what a module could reach for."""
    monkeypatch.setenv("GATEHOUSE_SECRET", "s3cret")
    text = "package env\n\nseen := opa.runtime().env\n"
    async with _engine(module("env", text)) as engine:
        value = await _ask(engine, "env/seen")
        status = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{engine.pid}/status").read_text().splitlines()
            if ":\t" in line
        )
        limits = Path(f"/proc/{engine.pid}/limits").read_text()

    assert value in (RuleValue(True, {}), UNDEFINED_RULE)
    assert ("1", "2") == (status["NoNewPrivs"].strip(), status["Seccomp"].strip())
    assert os.geteuid() != 0 or "0" not in status["Uid"].split()
    most = next(line.split()[3] for line in limits.splitlines() if line.startswith("Max address space"))
    size = int(status["VmSize"].split()[0]) * 1024
    assert 0 < int(most) - size <= LIMITS.memory_bytes


async def test_without_the_library_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after so many tries that no more are made."""
    monkeypatch.setattr(process, "_MODULE", "tests.support.rego_child_without_library")
    async with _engine(GOOD, limits=replace(LIMITS, child_restart_burst=1)) as engine:
        for _ in range(3):
            assert "regopy is not installed" in (await _refused(engine, "good/yes")).detail
