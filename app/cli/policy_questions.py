"""`gatehouse policy explain`, `who-can`, `what-can` and `diff`: questions over a server, or over files alone."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli import class_tables, explain_question
from app.cli.explain_question import Flags
from app.cli.failures import ExitCode, UsageError
from app.cli.files import read_documents, read_values
from app.cli.option_groups import with_groups
from app.cli.question_options import Known, Method, OneSet, PathName, Shown
from app.cli.text import Format, print_value


def register(app: typer.Typer) -> None:
    """Add the commands to `gatehouse policy`."""
    for name, command in (("explain", explain), ("who-can", who_can), ("what-can", what_can), ("diff", diff)):
        app.command(name)(with_groups(command))


def explain(
    *,
    request: Annotated[
        str, typer.Option("--request", help="A file with the question (request, and target or enforcementPoint).")
    ] = "",
    source: Annotated[
        str,
        typer.Option(
            "--from", help="The caller, NAMESPACE/ACCOUNT or a SPIFFE ID; without it, an unauthenticated one."
        ),
    ] = "",
    method: Annotated[str, typer.Option("--method", help="The HTTP method, GET if not said.")] = "",
    path: Annotated[str, typer.Option("--path", help="The path, / if not said.")] = "",
    known: Known,
    claims: Annotated[
        list[str] | None, typer.Option("--claim", help="A claim of the verified token, NAME=VALUE; repeatable.")
    ] = None,
    providers: Annotated[
        list[str] | None,
        typer.Option("--provider", help="What a CUSTOM provider answers, NAME=allow or NAME=deny; repeatable."),
    ] = None,
    asked: OneSet,
    shown: Shown,
) -> None:
    """Decide one request and say why: over the live set, a revision, or with -f over files alone."""
    flags = Flags(
        known, source=source, method=method, path=path, claims=tuple(claims or ()), providers=tuple(providers or ())
    )
    question = _question_in(request, flags) if request else explain_question.from_flags(flags)
    asked.check()
    if asked.files:
        answer = explain_question.over_files(question, read_documents(asked.files))
    else:
        answer = _asked("/v1/explain", question, shown, asked.revision)
    if shown.output is Format.TABLE:
        explain_question.print_answer(answer)
    else:
        print_value(answer, shown.output)


def who_can(
    *,
    method: Annotated[str, typer.Argument(help="The HTTP method; without it, any.")] = "",
    path: Annotated[str, typer.Argument(help="The path; without it, any.")] = "",
    known: Known,
    asked: OneSet,
    shown: Shown,
) -> None:
    """Say who may send a request: every class of callers, with the rule that allows or denies it."""
    question = explain_question.broad_from_flags(Flags(known, method=method, path=path))
    _print_reach(question, "/v1/who-can", asked, shown)


def what_can(
    *,
    caller: Annotated[
        str, typer.Argument(help="Who: NAMESPACE/ACCOUNT, a SPIFFE ID, or '' for unauthenticated.", metavar="CALLER")
    ],
    method: Method = "",
    path: PathName = "",
    known: Known,
    asked: OneSet,
    shown: Shown,
) -> None:
    """Say what a caller may reach: for each target every class of requests, with the rule that says so."""
    question = explain_question.broad_from_flags(Flags(known, method=method, path=path))
    question["request"]["source_principal"] = caller
    _print_reach(question, "/v1/what-can", asked, shown)


def diff(
    *,
    before: Annotated[str, typer.Argument(help="A revision number, live, or a file or directory of documents.")],
    after: Annotated[str, typer.Argument(help="The same; with --shadow it may be left out, and is BEFORE.")] = "",
    apply: Annotated[
        bool, typer.Option("--apply", help="AFTER is files that `policy apply` would apply to BEFORE, not a whole set.")
    ] = False,
    shadow: Annotated[
        bool, typer.Option("--shadow", help="AFTER is taken as if its policies in shadow were enforced.")
    ] = False,
    reasons: Annotated[
        bool, typer.Option("--reasons", help="Also what is decided alike, but by another rule.")
    ] = False,
    source: Annotated[str, typer.Option("--from", help="Only requests of this caller.")] = "",
    method: Method = "",
    path: PathName = "",
    known: Known,
    shown: Shown,
) -> None:
    """Say which requests two sets decide otherwise: exit 0 when there are none, 3 when there are."""
    flags = Flags(known, source=source, method=method, path=path)
    question = explain_question.broad_from_flags(flags) | {"reasons": reasons} | ({"shadow": True} if shadow else {})
    if not after and (apply or not shadow):
        raise UsageError("name the second set; it may be left out with --shadow alone, and is the first one then")
    if apply and _side(after) is not None:
        raise UsageError("--apply wants a file or a directory as the second argument")
    after = after or before
    if _side(before) is None and _side(after) is None:
        answer = _diff_of_files(question, before, after, apply=apply)
    else:
        sides = {"before": _side_to_json(before), "after": _side_to_json(after)}
        if apply:
            sides["after"]["over"] = sides["before"]
        answer = _asked("/v1/diff", question | sides, shown)
    if shown.output is Format.TABLE:
        class_tables.print_differences(answer)
    else:
        print_value(class_tables.without_words(answer), shown.output)
    if answer["differences"]:
        raise typer.Exit(ExitCode.TESTS_FAILED)


def _question_in(file: str, flags: Flags) -> dict[str, Any]:
    if flags != Flags(Known()):
        raise UsageError("--request has the whole question; leave the flags about the request out, or write no file")
    question, *rest = read_values(file) or [None]
    if rest or not isinstance(question, dict):
        raise UsageError(f"{file} must hold one question: an object with `request` and `target`")
    return question


def _diff_of_files(question: dict[str, Any], before: str, after: str, *, apply: bool) -> dict[str, Any]:
    from app.policy.broad_question import answer_diff

    first = explain_question.view_of(read_documents([before]))
    second = first if after == before else explain_question.view_of(read_documents([after]), first if apply else None)
    return answer_diff(question, first, second, now=datetime.now(UTC))


def _side(name: str) -> int | str | None:
    """A revision number or `live`; None for files."""
    if name and (Path(name).exists() or name == "-"):
        return None
    if name == "live":
        return name
    if name.isascii() and name.isdigit() and len(name) <= 18:
        return int(name)
    raise UsageError(f"{name or 'an empty name'} is no file, no revision number, and not `live`")


def _side_to_json(name: str) -> Any:
    side = _side(name)
    return {"documents": [found.value for found in read_documents([name])]} if side is None else side


def _print_reach(question: dict[str, Any], path: str, asked: OneSet, shown: Shown) -> None:
    asked.check()
    if asked.files:
        from app.policy.broad_question import answer_reach

        view = explain_question.view_of(read_documents(asked.files))
        answer = answer_reach(question, view, now=datetime.now(UTC))
    else:
        answer = _asked(path, question, shown, asked.revision)
    if shown.output is Format.TABLE:
        class_tables.print_reach(answer, of_one_caller=path == "/v1/what-can")
        explain_question.warn_of_unknown(answer)
    else:
        print_value(class_tables.without_words(answer), shown.output)


def _asked(path: str, question: dict[str, Any], shown: Shown, revision: int | None = None) -> Any:
    from app.cli.client import connect

    with connect(shown.context) as api:
        return api.call("POST", path, query={"revision": revision}, body=question)[0]
