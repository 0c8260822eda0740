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
from app.cli.options import ContextName, Files
from app.cli.text import Format, Output, print_value

Source = Annotated[
    str, typer.Option("--from", help="The caller, NAMESPACE/ACCOUNT or a SPIFFE ID; without it, an unknown caller.")
]
Method = Annotated[str, typer.Option("--method", help="The HTTP method.")]
PathName = Annotated[str, typer.Option("--path", help="The path.")]
Host = Annotated[str, typer.Option("--host", help="The host header.")]
Headers = Annotated[list[str] | None, typer.Option("--header", help="NAME: VALUE; repeatable.")]
To = Annotated[str, typer.Option("--to", help="Where it goes: NAMESPACE/SERVICE[:PORT], or an address ADDRESS[:PORT].")]
At = Annotated[
    tuple[str, str] | None,
    typer.Option("--at", help="The proxy: waypoint, sidecar, gateway or ztunnel, and its NAMESPACE/NAME."),
]
Point = Annotated[str, typer.Option("--point", help="A registered EnforcementPoint, NAMESPACE/NAME.")]
Labels = Annotated[list[str] | None, typer.Option("--label", help="A label of the workload, NAME=VALUE; repeatable.")]
Port = Annotated[int | None, typer.Option("--port", min=0, max=65_535, help="The destination port.")]
SourceIp = Annotated[str, typer.Option("--source-ip", help="The address of the caller.")]
Tcp = Annotated[bool, typer.Option("--tcp", help="A TCP connection instead of an HTTP request.")]
Revision = Annotated[int | None, typer.Option("--revision", help="Over this revision, not the live set.")]

_NO_FLAGS = Flags(source="", method="", path="", host="", headers=(), to="", at=None, point="", labels=())


def register(app: typer.Typer) -> None:
    """Add the commands to `gatehouse policy`."""
    app.command("explain")(explain)
    app.command("who-can")(who_can)
    app.command("what-can")(what_can)
    app.command("diff")(diff)


def explain(
    *,
    request: Annotated[
        str, typer.Option("--request", help="A file with the question (request, and target or enforcementPoint).")
    ] = "",
    source: Source = "",
    method: Annotated[str, typer.Option("--method", help="The HTTP method, GET if not said.")] = "",
    path: Annotated[str, typer.Option("--path", help="The path, / if not said.")] = "",
    host: Host = "",
    headers: Headers = None,
    to: To = "",
    at: At = None,
    point: Point = "",
    labels: Labels = None,
    port: Port = None,
    source_ip: SourceIp = "",
    tcp: Tcp = False,
    claims: Annotated[
        list[str] | None, typer.Option("--claim", help="A claim of the verified token, NAME=VALUE; repeatable.")
    ] = None,
    providers: Annotated[
        list[str] | None,
        typer.Option("--provider", help="What a CUSTOM provider answers, NAME=allow or NAME=deny; repeatable."),
    ] = None,
    files: Files = None,
    revision: Revision = None,
    output: Output = Format.TABLE,
    context: ContextName = "",
) -> None:
    """Decide one request and say why: over the live set, a revision, or with -f over files alone."""
    flags = Flags(
        source=source,
        method=method,
        path=path,
        host=host,
        headers=tuple(headers or ()),
        to=to,
        at=at,
        point=point,
        labels=tuple(labels or ()),
        port=port,
        source_ip=source_ip,
        tcp=tcp,
        claims=tuple(claims or ()),
        providers=tuple(providers or ()),
    )
    question = _question_in(request, flags) if request else explain_question.from_flags(flags)
    _check_one_set(files, revision)
    if files:
        answer = explain_question.over_files(question, read_documents(files))
    else:
        answer = _asked("/v1/explain", question, context, revision)
    if output is Format.TABLE:
        explain_question.print_answer(answer)
    else:
        print_value(answer, output)


def who_can(
    method: Annotated[str, typer.Argument(help="The HTTP method; without it, any.")] = "",
    path: Annotated[str, typer.Argument(help="The path; without it, any.")] = "",
    *,
    host: Host = "",
    headers: Headers = None,
    to: To = "",
    at: At = None,
    point: Point = "",
    labels: Labels = None,
    port: Port = None,
    source_ip: SourceIp = "",
    tcp: Tcp = False,
    files: Files = None,
    revision: Revision = None,
    output: Output = Format.TABLE,
    context: ContextName = "",
) -> None:
    """Say who may send a request: every class of callers, with the rule that allows or denies it."""
    flags = Flags(
        source="",
        method=method,
        path=path,
        host=host,
        headers=tuple(headers or ()),
        to=to,
        at=at,
        point=point,
        labels=tuple(labels or ()),
        port=port,
        source_ip=source_ip,
        tcp=tcp,
    )
    _print_reach(explain_question.broad_from_flags(flags), "/v1/who-can", files, revision, output, context)


def what_can(
    caller: Annotated[
        str, typer.Argument(help="Who: NAMESPACE/ACCOUNT, a SPIFFE ID, or '' for unauthenticated.", metavar="CALLER")
    ],
    *,
    method: Method = "",
    path: PathName = "",
    host: Host = "",
    headers: Headers = None,
    to: To = "",
    at: At = None,
    point: Point = "",
    labels: Labels = None,
    port: Port = None,
    tcp: Tcp = False,
    files: Files = None,
    revision: Revision = None,
    output: Output = Format.TABLE,
    context: ContextName = "",
) -> None:
    """Say what a caller may reach: for each target every class of requests, with the rule that says so."""
    flags = Flags(
        source="",
        method=method,
        path=path,
        host=host,
        headers=tuple(headers or ()),
        to=to,
        at=at,
        point=point,
        labels=tuple(labels or ()),
        port=port,
        tcp=tcp,
    )
    question = explain_question.broad_from_flags(flags)
    question["request"]["source_principal"] = caller
    _print_reach(question, "/v1/what-can", files, revision, output, context)


def diff(
    before: Annotated[str, typer.Argument(help="A revision number, live, or a file or directory of documents.")],
    after: Annotated[str, typer.Argument(help="The same.")],
    *,
    apply: Annotated[
        bool, typer.Option("--apply", help="AFTER is files that `policy apply` would apply to BEFORE, not a whole set.")
    ] = False,
    reasons: Annotated[
        bool, typer.Option("--reasons", help="Also what is decided alike, but by another rule.")
    ] = False,
    source: Annotated[str, typer.Option("--from", help="Only requests of this caller.")] = "",
    method: Method = "",
    path: PathName = "",
    to: To = "",
    at: At = None,
    point: Point = "",
    labels: Labels = None,
    tcp: Tcp = False,
    output: Output = Format.TABLE,
    context: ContextName = "",
) -> None:
    """Say which requests two sets decide otherwise: exit 0 when there are none, 3 when there are."""
    flags = Flags(
        source=source,
        method=method,
        path=path,
        host="",
        headers=(),
        to=to,
        at=at,
        point=point,
        labels=tuple(labels or ()),
        tcp=tcp,
    )
    question = explain_question.broad_from_flags(flags) | {"reasons": reasons}
    if apply and _side(after) is not None:
        raise UsageError("--apply wants a file or a directory as the second argument")
    if _side(before) is None and _side(after) is None:
        answer = _diff_of_files(question, before, after, apply=apply)
    else:
        sides = {"before": _side_to_json(before), "after": _side_to_json(after)}
        if apply:
            sides["after"]["over"] = sides["before"]
        answer = _asked("/v1/diff", question | sides, context)
    if output is Format.TABLE:
        class_tables.print_differences(answer)
    else:
        print_value(class_tables.without_words(answer), output)
    if answer["differences"]:
        raise typer.Exit(ExitCode.TESTS_FAILED)


def _question_in(file: str, flags: Flags) -> dict[str, Any]:
    if flags != _NO_FLAGS:
        raise UsageError("--request has the whole question; leave the flags about the request out, or write no file")
    question, *rest = read_values(file) or [None]
    if rest or not isinstance(question, dict):
        raise UsageError(f"{file} must hold one question: an object with `request` and `target`")
    return question


def _check_one_set(files: list[str] | None, revision: int | None) -> None:
    if files and revision is not None:
        raise UsageError("-f takes files and --revision a stored set; give one of them")


def _diff_of_files(question: dict[str, Any], before: str, after: str, *, apply: bool) -> dict[str, Any]:
    from app.policy.broad_question import answer_diff

    first = explain_question.view_of(read_documents([before]))
    second = explain_question.view_of(read_documents([after]), first if apply else None)
    return answer_diff(question, first, second, now=datetime.now(UTC))


def _side(name: str) -> int | str | None:
    """A revision number or `live`; None for files."""
    if Path(name).exists() or name == "-":
        return None
    if name == "live":
        return name
    if name.isascii() and name.isdigit() and len(name) <= 18:
        return int(name)
    raise UsageError(f"{name} is no file, no revision number, and not `live`")


def _side_to_json(name: str) -> Any:
    side = _side(name)
    return {"documents": [found.value for found in read_documents([name])]} if side is None else side


def _print_reach(
    question: dict[str, Any],
    path: str,
    files: list[str] | None,
    revision: int | None,
    output: Format,
    context: str,
) -> None:
    _check_one_set(files, revision)
    if files:
        from app.policy.broad_question import answer_reach

        view = explain_question.view_of(read_documents(files))
        answer = answer_reach(question, view, now=datetime.now(UTC))
    else:
        answer = _asked(path, question, context, revision)
    if output is Format.TABLE:
        class_tables.print_reach(answer, of_one_caller=path == "/v1/what-can")
        explain_question.warn_of_unknown(answer)
    else:
        print_value(class_tables.without_words(answer), output)


def _asked(path: str, question: dict[str, Any], context: str, revision: int | None = None) -> Any:
    from app.cli.client import connect

    with connect(context) as api:
        return api.call("POST", path, query={"revision": revision}, body=question)[0]
