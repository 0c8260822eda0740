"""The commands of `gatehouse policy` that need no server: test, explain with -f."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from app.cli.failures import ExitCode, UsageError, progress
from app.cli.files import read_documents, read_values
from app.cli.options import ContextName, Files
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


def explain(
    *,
    request: Annotated[
        str, typer.Option("--request", help="A file with the question (request, and target or enforcementPoint).")
    ] = "",
    source: Annotated[str, typer.Option("--from", help="The caller's SPIFFE ID; without it, an unknown caller.")] = "",
    method: Annotated[str, typer.Option("--method", help="The HTTP method.")] = "GET",
    path: Annotated[str, typer.Option("--path", help="The path, with its query.")] = "/",
    host: Annotated[str, typer.Option("--host", help="The host header.")] = "",
    headers: Annotated[list[str] | None, typer.Option("--header", help="NAME: VALUE; repeatable.")] = None,
    to: Annotated[
        str, typer.Option("--to", help="Where it goes: NAMESPACE/SERVICE[:PORT], or an address ADDRESS[:PORT].")
    ] = "",
    at: Annotated[
        tuple[str, str] | None,
        typer.Option("--at", help="The proxy: waypoint, sidecar, gateway or ztunnel, and its NAMESPACE/NAME."),
    ] = None,
    point: Annotated[str, typer.Option("--point", help="A registered EnforcementPoint, NAMESPACE/NAME.")] = "",
    labels: Annotated[
        list[str] | None, typer.Option("--label", help="A label of the workload, NAME=VALUE; repeatable.")
    ] = None,
    providers: Annotated[
        list[str] | None,
        typer.Option("--provider", help="What a CUSTOM provider answers, NAME=allow or NAME=deny; repeatable."),
    ] = None,
    files: Files = None,
    revision: Annotated[int | None, typer.Option("--revision", help="Over this revision, not the live set.")] = None,
    output: Output = Format.TABLE,
    context: ContextName = "",
) -> None:
    """Decide one request and say why: over the live set, a revision, or with -f over files alone."""
    from app.cli import explain_question

    if request:
        (question, *rest) = read_values(request) or [None]
        if rest or not isinstance(question, dict):
            raise UsageError(f"{request} must hold one question: an object with `request` and `target`")
    else:
        question = explain_question.from_flags(
            explain_question.Flags(
                source=source,
                method=method,
                path=path,
                host=host,
                headers=tuple(headers or ()),
                to=to,
                at=at,
                point=point,
                labels=tuple(labels or ()),
                providers=tuple(providers or ()),
            )
        )
    if files:
        answer = explain_question.over_files(question, read_documents(files))
    else:
        from app.cli.client import connect

        with connect(context) as api:
            answer, _ = api.call("POST", "/v1/explain", query={"revision": revision}, body=question)
    if output is Format.TABLE:
        explain_question.print_answer(answer)
    else:
        print_value(answer, output)


def _cases(file: str) -> Any:
    """What a file holds: a list of cases, one case, or an object with `cases`; in YAML also a case a document."""
    values = read_values(file)
    if not values:
        raise UsageError(f"{file} has no cases")
    return values[0] if len(values) == 1 else values


def _failure_line(failure: dict[str, Any]) -> str:
    decided = f"by {failure['policy']} {failure['rule']}".rstrip() if failure["policy"] else "by no rule"
    return printable(f"FAIL {failure['name']}: expected {failure['expected']}, got {failure['got']} ({decided})")
