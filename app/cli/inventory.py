"""`gatehouse inventory`: nodes, workloads, services."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from app.cli.client import connect
from app.cli.files import read_documents
from app.cli.options import ContextName, DryRun, Files, Paths, Reason, given_paths
from app.cli.text import Format, Output, print_table, print_value, say

app = typer.Typer(name="inventory", help="What runs where: nodes, workloads, services.", no_args_is_help=True)
_KINDS = ("nodes", "workloads", "services")


@app.command("apply")
def apply(
    paths: Paths = None,
    files: Files = None,
    *,
    replace: Annotated[bool, typer.Option("--replace", help="Also delete whatever is not in the files.")] = False,
    dry_run: DryRun = False,
    reason: Reason = "",
    output: Output = Format.TABLE,
    context: ContextName = "",
) -> None:
    """Create or replace items: the compact form, or Kubernetes objects as kubectl prints them."""
    values = [found.value for found in read_documents(given_paths(paths, files))]
    body = values[0] if len(values) == 1 else {"apiVersion": "v1", "kind": "List", "items": values}
    query = {"dryRun": "All" if dry_run else "", "reason": reason}
    with connect(context) as api:
        change, _ = api.call("PUT" if replace else "PATCH", "/v1/inventory", query=query, body=body)
    if output is not Format.TABLE:
        print_value(change, output)
        return
    suffix = " (dry run)" if change["dryRun"] else ""
    for kind in _KINDS:
        counts = ", ".join(f"{count} {outcome}" for outcome, count in change[kind].items() if count)
        say(f"{kind}: {counts or 'none'}{suffix}")
    print(f"inventory generation {change['generation']}{suffix}")


@app.command("get")
def get(
    kind: Annotated[str, typer.Argument(help="nodes, workloads or services; without it, everything.")] = "",
    *,
    output: Output = Format.TABLE,
    context: ContextName = "",
) -> None:
    """Show the inventory; with -o yaml or json it is printed as `apply` reads it."""
    wanted = [name for name in _KINDS if not kind or name.startswith(kind.lower().rstrip("s"))]
    with connect(context) as api:
        contents = api.get("/v1/inventory")
    if output is not Format.TABLE:
        print_value({name: contents[name] for name in wanted}, output)
        return
    for name in wanted:
        _TABLES[name](contents[name])


def _print_nodes(items: list[dict[str, Any]]) -> None:
    print_table(("NODE", "BANNED"), [(item["name"], item["banned"]) for item in items])


def _print_workloads(items: list[dict[str, Any]]) -> None:
    rows = [
        (item["namespace"], item["name"], item["serviceAccount"], item["node"], item["phase"], _list(item["addresses"]))
        for item in items
    ]
    print_table(("NAMESPACE", "WORKLOAD", "ACCOUNT", "NODE", "PHASE", "ADDRESSES"), rows)


def _print_services(items: list[dict[str, Any]]) -> None:
    rows = [
        (item["registry"], item["namespace"], item["name"], _list(item["addresses"]), _list(item["ports"]))
        for item in items
    ]
    print_table(("REGISTRY", "NAMESPACE", "SERVICE", "ADDRESSES", "PORTS"), rows)


def _list(values: list[Any]) -> str:
    return ",".join(map(str, values))


_TABLES = {"nodes": _print_nodes, "workloads": _print_workloads, "services": _print_services}
