"""Asks a Rego engine about the modules of a change before it is stored: alone they parse, together they compile.

A module may call functions of others, so they are checked as the set would be after the change. Deleting a module that
others need is not refused: their rules are undefined then, and undefined denies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Protocol

from app.authority.policies.prepare_documents import PreparedDocument
from app.authority.records import StoredDocument
from app.authority.store import Store, Transaction
from app.errors import AppError, ErrorCode, FieldError
from app.limits import Limits
from app.policy.document import REGO_MODULE, parse_document
from app.policy.rego_module import ModuleProblem, RegoModule, refuse_clashes, rego_module_from_document

_TEXT = "/spec/rego"
_NOT_CHECKED = "stored unchecked: {}; a module that does not compile denies every request that asks for a rule"


class RegoChecker(Protocol):
    """An engine that can say what is wrong with modules, in bounded time and memory."""

    async def check(
        self, modules: Sequence[RegoModule], *, changed: Collection[str] | None = None
    ) -> Sequence[ModuleProblem]:
        """What is wrong with modules by themselves and together; empty when nothing is.

        `changed` are the files of those that are to be stored, without it all: who is not among them may be left out
        of what is evaluated.

        Raises:
            AppError: `FAILED_PRECONDITION` when there is no engine here; `INVALID` when the modules end it or take
                longer than they may.
        """
        ...


async def check_rego(
    checker: RegoChecker | None,
    store: Store,
    limits: Limits,
    prepared: Sequence[PreparedDocument],
    *,
    numbered: bool = False,
) -> tuple[PreparedDocument, ...]:
    """The prepared documents, their RegoModules checked; pointers are prefixed by the index when `numbered`.

    Raises:
        AppError: `INVALID` with a field error for each error; `TOO_LARGE` for too many modules.
    """
    changed = {
        item.key: (index, rego_module_from_document(item.document))
        for index, item in enumerate(prepared)
        if item.document.kind == REGO_MODULE
    }
    if not changed:
        return tuple(prepared)
    modules = await _stored(store, limits)
    modules |= {key: module for key, (_, module) in changed.items()}
    if len(modules) > limits.rego.max_modules:
        raise AppError(ErrorCode.TOO_LARGE, f"more Rego modules than rego.max_modules ({limits.rego.max_modules})")
    ordered = [modules[key] for key in sorted(modules)]
    await asyncio.to_thread(_refuse_what_does_not_fit, ordered, limits.rego.max_bundle_bytes)
    by_file = {module.file: index for index, module in changed.values()}
    try:
        problems = await _found(checker, ordered, by_file, limits)
    except AppError as error:
        if error.code is not ErrorCode.FAILED_PRECONDITION:
            raise
        unchecked = ModuleProblem(message=_NOT_CHECKED.format(error.detail), is_error=False)
        problems = [replace(unchecked, file=file) for file in by_file]
    _refuse([problem for problem in problems if problem.is_error], by_file, numbered=numbered)
    return tuple(_warned(item, index, problems, by_file) for index, item in enumerate(prepared))


def _refuse_what_does_not_fit(modules: Sequence[RegoModule], max_bytes: int) -> None:
    refuse_clashes(modules)
    if sum(module.size for module in modules) > max_bytes:
        raise AppError(
            ErrorCode.TOO_LARGE, f"the Rego modules are together larger than rego.max_bundle_bytes ({max_bytes})"
        )


async def _found(
    checker: RegoChecker | None, modules: Sequence[RegoModule], changed: Collection[str], limits: Limits
) -> list[ModuleProblem]:
    if checker is None:
        raise AppError(ErrorCode.FAILED_PRECONDITION, "no Rego engine is configured")
    return list(await checker.check(modules, changed=changed))[: limits.rego.max_findings]


async def _stored(store: Store, limits: Limits) -> dict[str, RegoModule]:
    def work(transaction: Transaction) -> list[StoredDocument]:
        return transaction.policies.documents_after(
            "",
            kind=REGO_MODULE,
            namespace="",
            limit=limits.rego.max_modules + 1,
            max_bytes=limits.rego.max_modules * limits.policy.max_document_bytes,  # all of them
        )

    found = await store.read(work)
    return {each.key: rego_module_from_document(parse_document(each.content, limits.policy)) for each in found}


def _refuse(errors: Sequence[ModuleProblem], by_file: dict[str, int], *, numbered: bool) -> None:
    if not errors:
        return
    found = []
    for problem in errors:
        index = by_file.get(problem.file)
        prefix = f"/{index}" if numbered and index is not None else ""
        # In a stored module the change is to blame all the same: it took away what the module needs.
        where = "" if index is not None or not problem.file else f"{problem.file}: "
        found.append(FieldError(prefix + _TEXT, f"{where}{problem}"))
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    raise AppError(ErrorCode.INVALID, f"{found[0].pointer}: {found[0].message}{more}", errors=tuple(found))


def _warned(
    item: PreparedDocument, index: int, problems: Sequence[ModuleProblem], by_file: dict[str, int]
) -> PreparedDocument:
    warnings = tuple(FieldError(_TEXT, str(problem)) for problem in problems if by_file.get(problem.file) == index)
    return replace(item, warnings=item.warnings + warnings) if warnings else item
