"""`gatehouse rego`: check modules, run their cases, give them to an OPA server. No Gatehouse server is needed."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer

from app.cli.failures import ExitCode, UsageError, progress
from app.cli.files import read_documents, read_values
from app.cli.text import Format, Output, counted, print_value, printable, say
from app.errors import AppError
from app.limits import PolicyLimits, RegoLimits
from app.policy.document import REGO_MODULE, parse_document
from app.policy.rego_module import (
    ModuleProblem,
    RegoModule,
    refuse_clashes,
    rego_module_doubts,
    rego_module_from_document,
)

app = typer.Typer(name="rego", help="Rego modules: check them, test them, give them to OPA.", no_args_is_help=True)

_NOBODY = "nobody"  # whom the child becomes where root starts it
# Somebody waits at a terminal, not at a gate.
_LIMITS = RegoLimits(evaluate_seconds=10.0)

Files = Annotated[list[str], typer.Argument(help="Files or directories with RegoModule documents.", metavar="FILE...")]


@app.command("check")
def check(
    files: Files,
    *,
    opa: Annotated[
        Path | None,
        typer.Option("--opa-program", help="Ask this `opa` instead of the built-in engine.", metavar="FILE"),
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Check modules alone and together, in a process of its own: exit 0 without errors, 3 with."""
    from app.rego.check_modules import ChildChecker, OpaChecker

    modules = _modules(files)
    refuse_clashes(modules)
    checker = ChildChecker(_LIMITS, user=_NOBODY) if opa is None else OpaChecker(opa, _LIMITS)
    doubts = [
        ModuleProblem(message=doubt.message, file=module.file, is_error=False)
        for module in modules
        for doubt in rego_module_doubts(module)
        if opa is None
    ]
    problems = [*asyncio.run(checker.check(modules)), *doubts]
    errors = sum(problem.is_error for problem in problems)
    if output is Format.TABLE:
        for problem in problems:
            say(f"{'error' if problem.is_error else 'warning'}: {problem.file or 'all modules'}: {problem}")
        found = (counted(errors, "error"), counted(len(problems) - errors, "warning"))
        print(", ".join((counted(len(modules), "module"), *found)))
    else:
        shown = [
            {"file": each.file, "line": each.line, "message": each.message, "error": each.is_error} for each in problems
        ]
        print_value({"modules": len(modules), "errors": errors, "problems": shown}, output)
    if errors:
        raise typer.Exit(ExitCode.FOUND_ERRORS)


@app.command("test")
def run_cases(
    files: Files,
    *,
    cases: Annotated[str, typer.Option("--cases", help="A file of cases, YAML or JSON.", metavar="FILE")],
    opa: Annotated[str, typer.Option("--opa", help="Ask the modules that this OPA has: http://HOST:PORT.")] = "",
    output: Output = Format.TABLE,
) -> None:
    """Run cases of a rule over modules: exit 0 when all hold, 3 when some fail, 2 when a file is bad."""
    from app.rego.rego_cases import read_rego_cases

    values = read_values(cases)
    try:
        wanted = [case for value in values for case in read_rego_cases(value)]
    except AppError as error:
        raise UsageError(f"{cases}: {error.detail}", errors=error.errors) from None
    if not wanted:
        raise UsageError(f"{cases}: there are no cases")
    progress(f"running {len(wanted)} cases")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    results = asyncio.run(_run(_modules(files), wanted, opa))
    failures = [
        {"name": each.case.name, "expected": each.case.expected, "got": each.got, "hint": each.hint}
        for each in results
        if not each.passed
    ]
    if output is Format.TABLE:
        for failure in failures:
            hint = f" ({failure['hint']})" if failure["hint"] else ""
            print(printable(f"FAIL {failure['name']}: expected {failure['expected']}, got {failure['got']}{hint}"))
        print(f"{len(results)} cases: {len(results) - len(failures)} passed, {len(failures)} failed")
    else:
        print_value({"total": len(results), "failed": len(failures), "failures": failures}, output)
    if failures:
        raise typer.Exit(ExitCode.TESTS_FAILED)


@app.command("push")
def push(
    files: Files,
    *,
    opa: Annotated[str, typer.Option("--opa", help="The server: http://HOST:PORT or https://HOST:PORT.")],
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="A file with the bearer token that it wants.", metavar="FILE")
    ] = None,
) -> None:
    """Make the modules of an OPA server that came from here exactly these; better let it pull our bundle."""
    from app.rego.opa_address import OpaAddress
    from app.rego.opa_administration import OpaAdministration

    modules, address = _modules(files), OpaAddress.parse(opa)
    token = "" if token_file is None else _token(token_file)

    async def work() -> bool:
        async with OpaAdministration(address, _LIMITS, token=token) as administration:
            await administration.push(modules)
            return await administration.is_healthy()

    healthy = asyncio.run(work())
    say(f"{len(modules)} modules pushed to {opa}; it {'can decide' if healthy else 'says that it cannot decide yet'}")


def _modules(files: list[str]) -> list[RegoModule]:
    """The modules in files; documents of other kinds beside them are left alone."""
    modules = []
    for found in read_documents(files):
        try:
            document = parse_document(found.value, PolicyLimits())
            if document.kind == REGO_MODULE:
                modules.append(rego_module_from_document(document))
        except AppError as error:
            raise UsageError(f"{found.where}: {error.detail}", errors=error.errors) from None
    if not modules:
        raise UsageError(f"{', '.join(files)}: there is no RegoModule")
    return modules


async def _run(modules: list[RegoModule], cases: list[Any], opa: str) -> list[Any]:
    from app.rego.embedded import EmbeddedEngine
    from app.rego.opa_address import OpaAddress
    from app.rego.opa_decisions import OpaDecisions
    from app.rego.rego_cases import run_rego_case

    held = {module.file: module for module in modules}
    engine: EmbeddedEngine | OpaDecisions = (
        OpaDecisions(OpaAddress.parse(opa), _LIMITS) if opa else EmbeddedEngine(lambda: held, _LIMITS, user=_NOBODY)
    )
    try:
        return [await run_rego_case(engine, case, _LIMITS) for case in cases]
    finally:
        await engine.close()


def _token(file: Path) -> str:
    try:
        return file.expanduser().read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {file}: {getattr(error, 'strerror', '') or 'it is not ASCII text'}") from None
