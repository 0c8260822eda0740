"""`gatehouse policy project`: what Istio itself can enforce of a set, as documents for `kubectl apply`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.failures import ExitCode, UsageError, warn
from app.cli.files import read_documents
from app.cli.options import ContextName, Files
from app.cli.text import Format, counted, print_documents, print_table, print_value, printable, write_yaml


def project(
    *,
    files: Files = None,
    revision: Annotated[int | None, typer.Option("--revision", help="Of this revision, not of the live set.")] = None,
    marked: Annotated[
        bool, typer.Option("--marked", help="Only documents that are marked as projected, not all that could be.")
    ] = False,
    with_custom: Annotated[
        bool, typer.Option("--with-custom", help="Also the CUSTOM policies by which waypoints ask us.")
    ] = False,
    directory: Annotated[
        Path | None, typer.Option("--to", help="Write a file for each document into this directory.", metavar="DIR")
    ] = None,
    output: Annotated[
        Format, typer.Option("--output", "-o", help="yaml: documents for kubectl; json: with the reasons; table.")
    ] = Format.YAML,
    context: ContextName = "",
) -> None:
    """Write what Istio can enforce natively: exit 0, or 3 when something is enforced twice or by nobody.

    Documents go to standard output, what stays here and why to standard error. Nothing is applied.
    """
    if files and revision is not None:
        raise UsageError("-f takes files and --revision a stored set; give one of them")
    answer = _over_files(files, marked, with_custom) if files else _stored(context, revision, marked, with_custom)
    documents = answer["documents"]
    if directory is not None:
        _write_files(documents, directory)
    if output is Format.JSON:
        print_value(answer, output)
    else:
        if output is Format.TABLE and documents:
            print_table(("KIND", "NAMESPACE", "NAME", "ACTION", "COPY OF"), map(_row, documents))
        elif directory is None and documents:
            print_documents(documents, output)
        _report(answer)
    if any(finding["severity"] == "error" for finding in answer["findings"]):
        raise typer.Exit(ExitCode.TESTS_FAILED)


def _over_files(files: Sequence[str], marked: bool, with_custom: bool) -> dict[str, Any]:
    from app.cli.explain_question import view_of
    from app.policy import project as projecting

    options = projecting.ProjectionOptions(only_marked=marked, with_custom=with_custom)
    return projecting.project(view_of(read_documents(files)), options).to_json()


def _stored(context: str, revision: int | None, marked: bool, with_custom: bool) -> dict[str, Any]:
    from app.cli.client import connect

    query = {"revision": revision, "marked": str(marked).lower(), "withCustom": str(with_custom).lower()}
    with connect(context) as api:
        answer: dict[str, Any] = api.get("/v1/projection", **query)
    return answer


def _row(document: Mapping[str, Any]) -> tuple[str, ...]:
    metadata = document["metadata"]
    origin = metadata.get("annotations", {}).get("gatehouse.dev/projected-from", "")
    return (document["kind"], metadata["namespace"], metadata["name"], document["spec"].get("action", "ALLOW"), origin)


def _report(answer: Mapping[str, Any]) -> None:
    """What was written, what stays here and why, and what is wrong, for people."""
    reasons, findings = answer["notProjected"], answer["findings"]
    for reason in reasons:
        print(printable(f"{reason['document']} {reason['pointer']}: {reason['why']}"), file=sys.stderr)
    for finding in findings:
        line = f"{finding['document']} {finding['pointer']}: {finding['code']}: {finding['message']}"
        if finding["severity"] == "error":
            print(printable(f"error: {line}"), file=sys.stderr)
        else:
            warn(line)
    stay = len({reason["document"] for reason in reasons})
    errors = sum(finding["severity"] == "error" for finding in findings)
    native = counted(len(answer["documents"]), "native document")
    stays = f"{counted(stay, 'document')} {'stays' if stay == 1 else 'stay'} here"
    print(f"{native}, {stays}, {counted(errors, 'error')}", file=sys.stderr)


def _write_files(documents: Sequence[Mapping[str, Any]], directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for document in documents:
            metadata = document["metadata"]
            # INVARIANT: namespace and name are of letters, digits, '-', '_' and '.', and start with none of the signs.
            path = directory / f"{metadata['namespace']}.{metadata['name']}.yaml"
            with path.open("w", encoding="utf-8") as file:
                write_yaml([dict(document)], file, explicit_start=False)
    except OSError as error:
        raise UsageError(f"cannot write to {directory}: {error.strerror}") from None
