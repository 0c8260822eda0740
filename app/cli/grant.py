"""`gatehouse grant`: let somebody in for a time, see who is let in, end it.

A grant is a document like any other: `create` makes one and stores it, `revoke` deletes it, and both are entries of the
revision's history.
"""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from app.cli.client import connect
from app.cli.durations import seconds_of
from app.cli.failures import CommandError, UsageError, warn
from app.cli.options import ContextName, DryRun, NamespaceName, Reason, document_path, document_words
from app.cli.text import Format, Output, print_facts, print_table, print_value, say
from app.errors import AppError, ErrorCode

app = typer.Typer(name="grant", help="Access that ends by itself, and break-glass access.", no_args_is_help=True)

_PAGE = 500
_GATEWAYS = "gateway.networking.k8s.io"


@app.command("create")
def create(
    *,
    source: Annotated[
        list[str], typer.Option("--from", help="Who: NAMESPACE/SERVICE-ACCOUNT, or a SPIFFE ID; repeatable.")
    ],
    to: Annotated[
        list[str], typer.Option("--to", help="What: the service NAMESPACE/NAME; repeatable within a namespace.")
    ],
    reason: Annotated[str, typer.Option("--reason", help="Why, for everybody who sees the grant at work.")],
    lasts: Annotated[str, typer.Option("--for", help="How long, such as 2h.")],
    methods: Annotated[list[str] | None, typer.Option("--method", help="Only this method; repeatable.")] = None,
    paths: Annotated[list[str] | None, typer.Option("--path", help="Only this path, such as /a/*; repeatable.")] = None,
    start: Annotated[str, typer.Option("--in", help="When it begins, such as 30m from now; else at once.")] = "0s",
    break_glass: Annotated[bool, typer.Option("--break-glass", help="Mark it as an emergency: at most a day.")] = False,
    overrides_deny: Annotated[
        bool, typer.Option("--override-deny", help="With --break-glass: DENY policies and providers do not stop it.")
    ] = False,
    ticket: Annotated[str, typer.Option("--ticket", help="Where it was asked for.")] = "",
    name: Annotated[str, typer.Option("--name", help="Its name; without one it gets one.")] = "",
    dry_run: DryRun = False,
    output: Output = Format.TABLE,
    context: ContextName = "",
) -> None:
    """Let somebody in for a time."""
    namespace, services = _services(to)
    if lasts.isdigit():  # seconds elsewhere, where nobody would be let in for too short a time
        raise UsageError(f"--for {lasts} has no unit; write {lasts}h, {lasts}m or {lasts}d")
    begin = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=seconds_of(start, "--in"))
    operation = {"methods": methods, "paths": paths}
    spec: dict[str, Any] = {
        "subjects": _subjects(source),
        "targetRefs": [{"group": "", "kind": "Service", "name": service} for service in services],
        "operations": [{key: value for key, value in operation.items() if value}] if methods or paths else None,
        "notBefore": _text(begin),
        "expiresAt": _text(begin + timedelta(seconds=seconds_of(lasts, "--for"))),
        "reason": reason,
        "ticket": ticket or None,
        "breakGlass": break_glass or None,
        "overridesDeny": overrides_deny or None,
    }
    name = name or f"{services[0][:40]}-{secrets.token_hex(3)}"
    document = {
        "apiVersion": "gatehouse.dev/v1",
        "kind": "Grant",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {key: value for key, value in spec.items() if value is not None},
    }
    query = {"dryRun": "All" if dry_run else "", "reason": reason}
    with connect(context) as api:
        path = document_path("Grant", namespace, name)
        try:
            change, _ = api.call("PUT", path, query=query, body=document)
        except AppError as error:
            if error.code is ErrorCode.PRECONDITION_REQUIRED:
                raise UsageError(f"there is a grant {namespace}/{name}; take another --name, or revoke it") from None
            raise
    (only,) = change["changes"]
    if output is not Format.TABLE:
        print_value(document, output)
    else:
        _print_grant(document, {"revision": change["revision"]["number"]})
    for warning in only["warnings"]:
        warn(f"{warning['pointer']}: {warning['message']}")


@app.command("list")
def list_grants(
    *,
    namespace: NamespaceName = "",
    holding: Annotated[bool, typer.Option("--holding", help="Only those that hold now.")] = False,
    output: Output = Format.TABLE,
    context: ContextName = "",
) -> None:
    """List grants, also those that have ended and were not deleted."""
    now = datetime.now(UTC)
    with connect(context) as api:
        items = list(api.pages("/v1/policies", kind="Grant", namespace=namespace, pageSize=_PAGE))
    found = [(state_of(item["content"], now), item["content"]) for item in items]
    if holding:
        found = [(state, content) for state, content in found if state == "holds"]
    if output is not Format.TABLE:
        print_value({"items": [{**content, "state": state} for state, content in found]}, output)
        return
    print_table(
        ("NAMESPACE", "NAME", "STATE", "UNTIL", "FROM", "TO", "BREAK-GLASS", "REASON"),
        [
            (
                content["metadata"]["namespace"],
                content["metadata"]["name"],
                state,
                content["spec"]["expiresAt"],
                _from_text(content["spec"]),
                _to_text(content["spec"]),
                content["spec"].get("breakGlass", False),
                content["spec"]["reason"],
            )
            for state, content in found
        ],
    )


@app.command("revoke")
def revoke(
    name: Annotated[str, typer.Argument(help="The grant's name, or its key Grant/NAMESPACE/NAME.", metavar="NAME")],
    *,
    namespace: NamespaceName = "",
    reason: Reason = "",
    dry_run: DryRun = False,
    context: ContextName = "",
) -> None:
    """End a grant now: it is deleted, and stays in the history."""
    kind = name if name.count("/") == 2 else "Grant"
    _, namespace, name = document_words(kind, namespace, "" if kind == name else name)
    path = document_path("Grant", namespace, name)
    with connect(context) as api:
        try:
            _, headers = api.call("GET", path)
        except AppError as error:
            if error.code is ErrorCode.NOT_FOUND:
                detail = f"there is no grant {namespace}/{name}"
                raise CommandError(ErrorCode.NOT_FOUND, detail, next_step="gatehouse grant list") from None
            raise
        query = {"dryRun": "All" if dry_run else "", "reason": reason}
        change, _ = api.call("DELETE", path, query=query, if_match=headers["etag"])
    say(f"Grant/{namespace}/{name} revoked in revision {change['revision']['number']}{' (dry run)' if dry_run else ''}")


def state_of(content: dict[str, Any], now: datetime) -> str:
    """How a stored grant stands: `not yet`, `holds` or `expired`."""
    begin, end = (datetime.fromisoformat(content["spec"][key]) for key in ("notBefore", "expiresAt"))
    if now < begin:
        return "not yet"
    return "holds" if now < end else "expired"


def _services(to: list[str]) -> tuple[str, list[str]]:
    """The one namespace, and the services in it."""
    pairs = [re.fullmatch(r"([a-z0-9-]+)/([a-z0-9.-]+)", one) for one in to]
    if not pairs or None in pairs:
        raise UsageError("--to wants a service as NAMESPACE/NAME")
    namespaces = {pair[1] for pair in pairs if pair is not None}
    if len(namespaces) > 1:
        raise UsageError("a grant opens services of its own namespace only; create one for each namespace")
    return namespaces.pop(), [pair[2] for pair in pairs if pair is not None]


def _subjects(source: list[str]) -> list[dict[str, list[str]]]:
    accounts, principals = [], []
    for one in source:
        if one.startswith("spiffe://"):
            principals.append(one.removeprefix("spiffe://"))
        elif re.fullmatch(r"[^/\s*]+/[^/\s*]+", one):
            accounts.append(one)
        else:
            raise UsageError(f"--from {one!r} is neither NAMESPACE/SERVICE-ACCOUNT nor a SPIFFE ID")
    found = []
    if accounts:
        found.append({"serviceAccounts": accounts})
    if principals:
        found.append({"principals": principals})
    return found


def _text(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _from_text(spec: dict[str, Any]) -> str:
    return ", ".join(value for subject in spec["subjects"] for values in subject.values() for value in values)


def _to_text(spec: dict[str, Any]) -> str:
    refs = spec.get("targetRefs") or [ref for ref in (spec.get("targetRef"),) if ref]
    labels = (spec.get("selector") or {}).get("matchLabels") or {}
    return ", ".join([*(f"{ref['kind']} {ref['name']}" for ref in refs), *(f"{k}={v}" for k, v in labels.items())])


def _print_grant(document: dict[str, Any], more: dict[str, Any]) -> None:
    metadata, spec = document["metadata"], document["spec"]
    operation = (spec.get("operations") or [{}])[0]
    print_facts(
        {
            "grant": f"{metadata['namespace']}/{metadata['name']}",
            "from": _from_text(spec),
            "to": _to_text(spec),
            "methods": ", ".join(operation.get("methods", ["every"])),
            "paths": ", ".join(operation.get("paths", ["every"])),
            "holds": f"{spec['notBefore']} to {spec['expiresAt']}",
            "break-glass": spec.get("breakGlass", False),
            "reason": spec["reason"],
            **more,
        }
    )
