"""RegoModule documents are checked by an engine before they are stored, over both databases."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from app.authority.administration import Administration
from app.errors import AppError, ErrorCode
from app.limits import Limits, RegoLimits
from app.policy.rego_module import ModuleProblem, RegoModule
from app.storage.database import Database
from tests.support.administration import ALICE, StandingClock, policy, refused
from tests.support.direct_aside import DirectAside
from tests.support.rego import module_document

GOOD = "package shop.authz\n\nallow := true\n"


class ScriptedChecker:
    """An engine that finds what it is told to find, and remembers what it was asked."""

    def __init__(self) -> None:
        self.problems: list[ModuleProblem] = []
        self.error: AppError | None = None
        self.asked: list[list[str]] = []
        self.changed: list[list[str]] = []

    async def check(
        self, modules: Sequence[RegoModule], *, changed: Collection[str] | None = None
    ) -> Sequence[ModuleProblem]:
        self.asked.append([module.file for module in modules])
        self.changed.append(sorted(changed or ()))
        if self.error is not None:
            raise self.error
        return self.problems


def _administration(
    database: Database, checker: ScriptedChecker | None, limits: RegoLimits | None = None
) -> Administration:
    bounds = Limits(rego=limits or RegoLimits())
    return Administration(database, clock=StandingClock(), limits=bounds, aside=DirectAside(), rego=checker)


async def test_a_module_is_checked_together_with_those_that_are_stored(database: Database) -> None:
    """As the set would be after the change; other documents are nobody's business here."""
    checker = ScriptedChecker()
    administration = _administration(database, checker)
    await administration.put_policy(ALICE, module_document("lib", "package shop.lib\n"))
    await administration.apply_batch(ALICE, [policy(), module_document("authz", GOOD)])
    await administration.put_policy(ALICE, policy("other"))

    assert [["shop/lib.rego"], ["shop/authz.rego", "shop/lib.rego"]] == checker.asked
    assert [["shop/lib.rego"], ["shop/authz.rego"]] == checker.changed


async def test_an_error_refuses_the_document_and_names_the_line(database: Database) -> None:
    """Nothing is stored; in a batch the pointer begins with the index of the document."""
    checker = ScriptedChecker()
    checker.problems = [ModuleProblem(file="shop/authz.rego", line=3, message="bad thing")]
    administration = _administration(database, checker)
    alone = await refused(administration.put_policy(ALICE, module_document("authz", GOOD)))
    batch = await refused(administration.apply_batch(ALICE, [policy(), module_document("authz", GOOD)]))

    assert [("/spec/rego", "line 3: bad thing")] == [(error.pointer, error.message) for error in alone.errors]
    assert [("/1/spec/rego", "line 3: bad thing")] == [(error.pointer, error.message) for error in batch.errors]
    assert [ErrorCode.INVALID] * 2 == [alone.code, batch.code]
    assert 0 == (await administration.status()).revision


async def test_a_stored_module_that_the_change_breaks_is_named(database: Database) -> None:
    """The change took away what another module needs."""
    checker = ScriptedChecker()
    administration = _administration(database, checker)
    await administration.put_policy(ALICE, module_document("authz", GOOD))
    checker.problems = [ModuleProblem(file="shop/authz.rego", line=1, message="gone")]
    error = await refused(administration.put_policy(ALICE, module_document("lib", "package shop.lib\n")))

    assert ["shop/authz.rego: line 1: gone"] == [each.message for each in error.errors]


async def test_a_doubt_is_a_warning(database: Database) -> None:
    """The document is stored."""
    checker = ScriptedChecker()
    checker.problems = [ModuleProblem(file="shop/authz.rego", message="hm", is_error=False)]
    change = await _administration(database, checker).put_policy(ALICE, module_document("authz", GOOD))

    assert ["hm"] == [warning.message for warning in change.changes[0].warnings]


async def test_without_an_engine_a_module_is_stored_with_a_warning(database: Database) -> None:
    """Never silently: who reads the answer knows that nothing was checked."""
    checker = ScriptedChecker()
    checker.error = AppError(ErrorCode.FAILED_PRECONDITION, "regopy is not installed")
    first = await _administration(database, checker).put_policy(ALICE, module_document("authz", GOOD))
    second = await _administration(database, None).put_policy(ALICE, module_document("lib", "package shop.lib\n"))

    assert first.changes[0].warnings[0].message.startswith("stored unchecked: regopy is not installed")
    assert second.changes[0].warnings[0].message.startswith("stored unchecked: no Rego engine")


async def test_an_engine_that_cannot_say_refuses(database: Database) -> None:
    """A module that kills its checker is not stored."""
    checker = ScriptedChecker()
    checker.error = AppError(ErrorCode.INVALID, "the Rego modules cannot be checked: the process ended")
    error = await refused(_administration(database, checker).put_policy(ALICE, module_document("authz", GOOD)))

    assert ErrorCode.INVALID == error.code


async def test_data_in_the_same_place_twice_is_refused(database: Database) -> None:
    """Which of two modules would a rule read?"""
    administration = _administration(database, ScriptedChecker())
    await administration.put_policy(ALICE, module_document("one", "package shop\n", {"a": 1}))
    error = await refused(administration.put_policy(ALICE, module_document("two", "package shop\n", {"a": 2})))

    assert "stands where other data is already" in error.detail


async def test_data_does_not_take_the_place_of_a_rule_of_another_namespace(database: Database) -> None:
    """Whoever writes it: an engine would believe the data where the rule has no value."""
    administration = _administration(database, ScriptedChecker())
    await administration.put_policy(ALICE, module_document("authz", "package shop.authz\n\nallow if input.admin\n"))
    theirs = module_document("free", "package shop\n", {"authz": {"allow": True}}, namespace="evil")
    error = await refused(administration.put_policy(ALICE, theirs))

    assert "the data of RegoModule evil/free stands where RegoModule shop/authz has shop.authz.allow" in error.detail


async def test_modules_that_no_bundle_holds_are_refused(database: Database) -> None:
    """Else one author's could keep every OPA from a bundle; up to there every module is part of the check."""
    checker = ScriptedChecker()
    administration = _administration(database, checker, RegoLimits(max_bundle_bytes=400))
    for name in "abcde":
        await administration.put_policy(ALICE, module_document(name, f"package {name}\n", {"of": "x" * 50}))
    large = await refused(administration.put_policy(ALICE, module_document("f", "package f\n", {"of": "x" * 100})))

    assert [f"shop/{name}.rego" for name in "abcde"] == checker.asked[-1]
    assert (ErrorCode.TOO_LARGE, True) == (large.code, "rego.max_bundle_bytes" in large.detail)


async def test_a_rollback_is_checked_too(database: Database) -> None:
    """What was fine then may not be now."""
    checker = ScriptedChecker()
    administration = _administration(database, checker)
    created = await administration.put_policy(ALICE, module_document("authz", GOOD))
    await administration.delete_policy(ALICE, ("RegoModule", "shop", "authz"), expected=created.changes[0].etag)
    checker.problems = [ModuleProblem(file="shop/authz.rego", message="no more")]

    assert "no more" in (await refused(administration.roll_back(ALICE, 1))).detail
