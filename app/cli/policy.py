"""`gatehouse policy`: documents over the API, and decision cases and explanations without one."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from app.cli import policy_confirm, policy_offline, policy_project, policy_questions, policy_validate
from app.cli.client import ApiClient, connect
from app.cli.failures import CommandError, UsageError, progress, warn
from app.cli.files import Found, read_documents
from app.cli.options import (
    ContextName,
    DryRun,
    Files,
    FromSource,
    NamespaceName,
    Paths,
    Reason,
    TakeOver,
    document_path,
    document_words,
    given_paths,
    kind_of,
)
from app.cli.text import Format, Output, print_documents, print_table, print_value, say
from app.errors import AppError, ErrorCode, FieldError

app = typer.Typer(name="policy", help="Policy documents: apply, read, test, ask questions.", no_args_is_help=True)
_PAGE = 500
_SETTLED_POLL_SECONDS = 0.1
_THEN = {"created": "there", "configured": "different", "deleted": "absent"}  # of what a rollback would have done


@app.command("apply")
def apply(
    paths: Paths = None,
    files: Files = None,
    *,
    dry_run: DryRun = False,
    reason: Reason = "",
    source: FromSource = "api",
    take_over: TakeOver = False,
    wait: Annotated[float, typer.Option("--wait", help="Wait up to SECONDS until every worker serves it.")] = 0.0,
    output: Output = Format.TABLE,
    context: ContextName = "",
) -> None:
    """Create or replace documents: all of them as one revision, or none."""
    documents = read_documents(given_paths(paths, files))
    if len(documents) > _PAGE:
        progress(f"applying {len(documents)} documents")
    with connect(context) as api:
        try:
            query = _write_query(dry_run, reason) | _owner_query(source, take_over=take_over)
            change, _ = api.call("POST", "/v1/apply", query=query, body=[found.value for found in documents])
        except AppError as error:
            raise _located(error, documents) from None
        _print_change(change, output)
        if wait and not dry_run:
            _wait_until_served(api, change["number"], wait)


@app.command("get")
def get(
    kind: Annotated[str, typer.Argument(help="The kind, such as AuthorizationPolicy (or ap).")] = "",
    name: Annotated[str, typer.Argument(help="One document.")] = "",
    *,
    namespace: NamespaceName = "",
    revision: Annotated[int | None, typer.Option("--revision", help="One document as it was at a revision.")] = None,
    output: Output = Format.TABLE,
    context: ContextName = "",
) -> None:
    """Show documents; with -o yaml or json they are printed as `apply` reads them."""
    kind, namespace, name = document_words(kind, namespace, name)
    with connect(context) as api:
        if name:
            document, headers = api.call("GET", document_path(kind, namespace, name), query={"revision": revision})
            if output is Format.TABLE:
                metadata = document["metadata"]
                row = (kind_of(kind), metadata.get("namespace"), metadata["name"], headers["x-gatehouse-revision"])
                print_table(("KIND", "NAMESPACE", "NAME", "REVISION"), [row])
            else:
                print_value(document, output)
            return
        query = {"kind": kind_of(kind) if kind else "", "namespace": namespace, "pageSize": _PAGE}
        items = list(api.pages("/v1/policies", **query))
    if output is Format.TABLE:
        columns = ("kind", "namespace", "name", "source", "effect", "revision")
        rows = [(*(item[column] for column in columns), item["etag"][:12]) for item in items]
        print_table((*map(str.upper, columns), "ETAG"), rows)
    else:
        print_documents([item["content"] for item in items], output)


@app.command("delete")
def delete(
    kind: Annotated[str, typer.Argument(help="The kind, or the whole key as `apply` prints it.")],
    name: Annotated[str, typer.Argument(help="The document's name.")] = "",
    *,
    namespace: NamespaceName = "",
    dry_run: DryRun = False,
    reason: Reason = "",
    source: FromSource = "api",
    take_over: TakeOver = False,
    output: Output = Format.TABLE,
    context: ContextName = "",
) -> None:
    """Delete one document, as it is now."""
    path = document_path(*document_words(kind, namespace, name))
    with connect(context) as api:
        _, headers = api.call("GET", path)
        query = _write_query(dry_run, reason) | _owner_query(source, take_over=take_over)
        change, _ = api.call("DELETE", path, query=query, if_match=headers["etag"])
    _print_change(change, output)


@app.command("history")
def history(
    kind: Annotated[str, typer.Argument(help="The kind; without it, the history of the whole set.")] = "",
    name: Annotated[str, typer.Argument(help="The document's name.")] = "",
    *,
    namespace: NamespaceName = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many, newest first.")] = 20,
    output: Output = Format.TABLE,
    context: ContextName = "",
) -> None:
    """Show revisions of the set, or versions of one document."""
    kind, namespace, name = document_words(kind, namespace, name)
    path = f"{document_path(kind, namespace, name)}/history" if name else "/v1/revisions"
    with connect(context) as api:
        items = []
        for item in api.pages(path, pageSize=min(limit, _PAGE)):
            items.append(item)
            if len(items) == limit:
                break
    if output is not Format.TABLE:
        print_value({"items": items}, output)
    elif name:
        rows = [(i["revision"], i["outcome"], i["etag"][:12], i["author"], i["time"], i["reason"]) for i in items]
        print_table(("REVISION", "OUTCOME", "ETAG", "AUTHOR", "TIME", "REASON"), rows)
    else:
        revisions = [(i["number"], i["changes"], i["author"], i["time"], _reason(i)) for i in items]
        print_table(("REVISION", "CHANGES", "AUTHOR", "TIME", "REASON"), revisions)


@app.command("rollback")
def rollback(
    revision: Annotated[int, typer.Argument(help="The revision to bring back.", min=0)],
    kind: Annotated[str, typer.Argument(help="Only this document: its kind …")] = "",
    name: Annotated[str, typer.Argument(help="… and its name.")] = "",
    *,
    namespace: NamespaceName = "",
    include: Annotated[
        list[str] | None,
        typer.Option("--include", help="Have documents of this kind go back, too: Quarantine or Grant; repeatable."),
    ] = None,
    dry_run: DryRun = False,
    reason: Reason = "",
    wait: Annotated[float, typer.Option("--wait", help="Wait up to SECONDS until every worker serves it.")] = 0.0,
    output: Output = Format.TABLE,
    context: ContextName = "",
) -> None:
    """Bring back the whole set, or one document, as it was at a revision; this makes a new revision.

    Quarantines and grants stay as they are now, unless their kind is included or one of them is named.
    """
    body: dict[str, Any] = {"revision": revision}
    kind, namespace, name = document_words(kind, namespace, name)
    if kind or name:
        if include:
            raise UsageError("--include is for the whole set; one document goes back whatever its kind")
        _, _, _, kind_word, namespace_word, name_word = document_path(kind, namespace, name).split("/")
        body["document"] = {"kind": kind_word, "namespace": namespace_word, "name": name_word}
    else:  # said also when it is empty: an earlier release, which would lift quarantines, refuses the word
        body["include"] = [kind_of(word) for word in include or []]
    with connect(context) as api:
        change, _ = api.call("POST", "/v1/rollback", query=_write_query(dry_run, reason), body=body)
        if output is Format.TABLE and "include" in body:
            _print_kept(change["kept"], revision)
        _print_change(change, output)
        if wait and not dry_run:
            _wait_until_served(api, change["number"], wait)


app.command("test")(policy_offline.run_tests)
app.command("validate")(policy_validate.validate)
policy_questions.register(app)
app.command("project")(policy_project.project)
app.command("confirm")(policy_confirm.confirm)


def _write_query(dry_run: bool, reason: str) -> dict[str, str]:
    return {"dryRun": "All" if dry_run else "", "reason": reason}


def _owner_query(source: str, *, take_over: bool) -> dict[str, str]:
    return {"source": "" if source == "api" else source, "takeOver": "true" if take_over else ""}


def _print_change(change: dict[str, Any], output: Format) -> None:
    if output is not Format.TABLE:
        print_value(change, output)
        return
    suffix = " (dry run)" if change["dryRun"] else ""
    for item in change["changes"]:
        say(f"{item['key']} {item['outcome']}{suffix}")
        for warning in item["warnings"]:
            warn(f"{item['key']} {warning['pointer']}: {warning['message']}")
    say(f"revision {change['revision']['number']}, snapshot {change['number']}{suffix}")


def _print_kept(kept: dict[str, Any], revision: int) -> None:
    for item in kept["documents"]:
        say(f"{item['key']} left as it is (at revision {revision}: {_THEN[item['ifIncluded']]})")
    more = kept["count"] - len(kept["documents"])
    if more:
        say(f"and {more} more left as they are")
    if kept["count"]:
        warn(f"{kept['count']} quarantines and grants did not go back; --include Quarantine --include Grant takes them")


def _located(error: AppError, documents: list[Found]) -> AppError:
    """The error with the names of our files instead of indices."""
    errors = []
    for field in error.errors:
        _, _, rest = field.pointer.partition("/")
        index, _, pointer = rest.partition("/")
        if index.isascii() and index.isdigit() and int(index) < len(documents):
            errors.append(FieldError(f"{documents[int(index)].where}: /{pointer}", field.message))
        else:
            errors.append(field)
    return AppError(error.code, error.detail, errors=tuple(errors))


def _reason(revision: dict[str, Any]) -> str:
    back = revision["rollbackOf"]
    return revision["reason"] or (f"rollback to {back}" if back is not None else "")


def _wait_until_served(api: ApiClient, number: int, seconds: float) -> None:
    """Return when every worker serves the snapshot, or one that is newer."""
    deadline = time.monotonic() + seconds
    while True:
        workers = api.get("/v1/status")["workers"]
        behind = [worker["worker"] for worker in workers if (worker.get("number") or 0) < number]
        if workers and not behind:
            return
        if time.monotonic() > deadline:
            who = f"{', '.join(behind[:5])} of {len(workers)}" if workers else "no worker is connected"
            raise CommandError(
                ErrorCode.TIMEOUT,
                f"it is stored, but not every worker serves snapshot {number} after {seconds:g} s: {who}",
                next_step="gatehouse status",
            )
        time.sleep(_SETTLED_POLL_SECONDS)
