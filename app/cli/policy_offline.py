"""The command of `gatehouse policy` that needs no server: test."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from app.cli.failures import ExitCode, UsageError, progress
from app.cli.files import read_values
from app.cli.text import Format, Output, print_value, printable
from app.errors import AppError


def run_tests(
    files: Annotated[list[str], typer.Argument(help="Files of decision cases, JSON or YAML.", metavar="FILE...")],
    output: Output = Format.TABLE,
) -> None:
    """Run decision cases: exit 0 when all hold, 3 when some fail, 2 when a file is bad."""
    from app.policy.cases import run_cases

    reports, changes = [], []
    for file in files:
        cases = _cases(file)
        progress(f"running the cases of {file}")
        try:
            report = run_cases(cases).to_json()
            reports.append(report)
            changes += report.get("shadow", {}).get("changes", [])
        except AppError as error:
            raise UsageError(f"{file}: {error.detail}", errors=error.errors) from None
    total = {
        "total": sum(report["total"] for report in reports),
        "passed": sum(report["passed"] for report in reports),
        "failed": sum(report["failed"] for report in reports),
        "failures": [failure for report in reports for failure in report["failures"]],
    }
    if changes:
        total["shadowChanges"] = changes
    if not total["total"]:
        raise UsageError(f"{', '.join(files)}: there are no cases")
    if output is Format.TABLE:
        for failure in total["failures"]:
            print(_failure_line(failure))
        for change in changes:
            named = f"{change['policy']} {change['rule']}".rstrip()
            print(printable(f"SHADOW {change['name']}: {change['verdict']}{f' by {named}' if named else ''}"))
        print(f"{total['total']} cases: {total['passed']} passed, {total['failed']} failed")
    else:
        print_value(total, output)
    if total["failed"]:
        raise typer.Exit(ExitCode.TESTS_FAILED)


def _cases(file: str) -> Any:
    """What a file holds: a list of cases, one case, or an object with `cases`; in YAML also a case a document."""
    values = read_values(file)
    if not values:
        raise UsageError(f"{file} has no cases")
    return values[0] if len(values) == 1 else values


def _failure_line(failure: dict[str, Any]) -> str:
    decided = f"by {failure['policy']} {failure['rule']}".rstrip() if failure["policy"] else "by no rule"
    return printable(f"FAIL {failure['name']}: expected {failure['expected']}, got {failure['got']} ({decided})")
