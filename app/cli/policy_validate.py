"""`gatehouse policy validate`: what is wrong or doubtful with documents, each by itself and all together."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from app.cli.failures import ExitCode, UsageError, progress
from app.cli.files import Found, documents_in, files_of
from app.cli.options import ContextName
from app.cli.text import Format, Output, counted, print_value, printable
from app.errors import AppError


def validate(
    files: Annotated[
        list[str] | None, typer.Argument(help="Files or directories of documents.", metavar="FILE...")
    ] = None,
    *,
    live: Annotated[
        bool, typer.Option("--live", help="Together with the live set: what the files would change there.")
    ] = False,
    output: Output = Format.TABLE,
    context: ContextName = "",
) -> None:
    """Look for what is wrong in documents: exit 0 without errors, 3 with.

    Each document is looked at by itself, and all of them as one set. With --live they are looked at in the live set;
    without files, the live set alone is. Nothing is stored.
    """
    if not files and not live:
        raise UsageError("name files or directories of documents, or say --live")
    documents, findings = _read(files or [])
    if live:
        findings += _over_live(documents, context)
    elif documents:
        findings += _over_files(documents)
    errors = sum(finding["severity"] == "error" for finding in findings)
    if output is Format.TABLE:
        for finding in findings:
            print(_line(finding))
        print(f"{counted(errors, 'error')}, {counted(len(findings) - errors, 'warning')}")
    else:
        print_value({"errors": errors, "warnings": len(findings) - errors, "findings": findings}, output)
    if errors:
        raise typer.Exit(ExitCode.FOUND_ERRORS)


def _read(paths: Sequence[str]) -> tuple[list[Found], list[dict[str, str]]]:
    """The documents in files, and as findings what keeps a file from having any: text that could mean two things.

    Raises:
        AppError: `INVALID` when a file cannot be read, or is neither YAML nor JSON.
    """
    documents: list[Found] = []
    findings: list[dict[str, str]] = []
    for path in files_of(paths):
        try:
            documents.extend(documents_in(path, named=path in paths))
        except AppError as error:
            if not error.errors:
                raise
            findings.extend(_finding(path, "", "error", item.pointer, "INVALID", item.message) for item in error.errors)
    if paths and not documents and not findings:
        raise UsageError(f"there are no documents in {', '.join(paths)}")
    return documents, findings


def _over_files(documents: Sequence[Found]) -> list[dict[str, str]]:
    from app.limits import PolicyLimits
    from app.policy.policy_view import PolicyView
    from app.policy.review import Surveyed, review

    limits = PolicyLimits()
    progress(f"looking at {len(documents)} documents")
    found = review(
        [document.value for document in documents], PolicyView.empty(limits), limits, Surveyed(now=datetime.now(UTC))
    )
    return _located([item.to_json() for item in found], documents)


def _over_live(documents: Sequence[Found], context: str) -> list[dict[str, str]]:
    from app.cli.client import connect

    with connect(context) as api:
        if documents:
            answer, _ = api.call("POST", "/v1/lint", body=[document.value for document in documents])
        else:
            answer = api.get("/v1/lint")
    return _located(answer["findings"], documents)


def _located(findings: Sequence[dict[str, Any]], documents: Sequence[Found]) -> list[dict[str, str]]:
    """The findings with the names of our files instead of indices; what is stored goes by its key."""
    located = []
    for found in findings:
        where = found["document"] if found["index"] is None else documents[found["index"]].where
        members = (found[name] for name in ("document", "severity", "pointer", "code", "message"))
        located.append(_finding(where, *members))
    return located


def _finding(where: str, document: str, severity: str, pointer: str, code: str, message: str) -> dict[str, str]:
    return {
        "where": where,
        "document": document,
        "severity": str(severity),  # plain text, also of an enumeration: YAML has no word for those
        "pointer": pointer,
        "code": str(code),
        "message": message,
    }


def _line(finding: dict[str, str]) -> str:
    where, severity, pointer = finding["where"], finding["severity"], finding["pointer"] or "/"
    return printable(f"{where}: {severity}: {pointer}: {finding['message']} ({finding['code']})")
