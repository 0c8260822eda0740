"""`gatehouse inventory`: nodes, workloads, services."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from app.cli.client import connect
from app.cli.files import read_documents
from app.cli.options import Cluster, ContextName, DryRun, Files, Paths, Reason, given_paths
from app.cli.text import Format, Output, print_table, print_value, say

app = typer.Typer(name="inventory", help="What runs where: nodes, workloads, services.", no_args_is_help=True)
_KINDS = ("nodes", "workloads", "services")


@app.command("apply")
def apply(
    paths: Paths = None,
    files: Files = None,
    *,
    replace: Annotated[
        bool, typer.Option("--replace", help="Also delete whatever of the cluster is not in the files.")
    ] = False,
    lease: Annotated[
        str,
        typer.Option("--lease", help="Promise to come again in that time, such as 2m; none ends an earlier promise."),
    ] = "",
    cluster: Cluster = "",
    dry_run: DryRun = False,
    reason: Reason = "",
    output: Output = Format.TABLE,
    context: ContextName = "",
) -> None:
    """Create or replace items: the compact form, or Kubernetes objects as kubectl prints them."""
    values = [found.value for found in read_documents(given_paths(paths, files))]
    body = values[0] if len(values) == 1 else {"apiVersion": "v1", "kind": "List", "items": values}
    query = {"dryRun": "All" if dry_run else "", "reason": reason, "cluster": cluster, "lease": lease}
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
    if change.get("leaseUntil"):
        print(f"leased until {change['leaseUntil']}")


@app.command("renew")
def renew(
    *,
    lease: Annotated[str, typer.Option("--lease", help="For how long from now, such as 2m; none ends the lease.")],
    cluster: Cluster = "",
    reason: Reason = "",
    output: Output = Format.TABLE,
    context: ContextName = "",
) -> None:
    """Say that what was pushed last still holds."""
    query = {"lease": lease, "cluster": cluster, "reason": reason}
    with connect(context) as api:
        found, _ = api.call("PUT", "/v1/inventory/lease", query=query)
    if output is not Format.TABLE:
        print_value(found, output)
    elif found["leaseUntil"]:
        print(f"the inventory of {found['cluster']} is leased until {found['leaseUntil']}")
    else:
        print(f"the inventory of {found['cluster']} has no lease: it holds until it is changed")


@app.command("sources")
def sources(*, output: Output = Format.TABLE, context: ContextName = "") -> None:
    """Show where the placement of each cluster comes from, and how old it is."""
    with connect(context) as api:
        answer = api.get("/v1/inventory/sources")
    if output is not Format.TABLE:
        print_value(answer["items"], output)
        return
    print_sources(answer["items"])
    services = answer.get("services", {"kind": "api"})
    if services["kind"] != "api":
        fresh = "fresh" if services["fresh"] else "not fresh"
        print()
        say(f"services: {services['services']} from {services['kind']}, {_seconds(services['ageSeconds'])}, {fresh}")
        if services["problem"]:
            say(f"services: {services['problem']}")


def print_sources(items: list[dict[str, Any]]) -> None:
    """The sources as a table, and below it what is wrong with them."""
    print_table(
        ("CLUSTER", "SOURCE", "USABLE", "AGE", "MAX AGE", "WORKLOADS", "VERSION", "LEASED UNTIL"),
        [
            (
                item["cluster"],
                item["kind"],
                "yes" if item["usable"] else "no",
                _seconds(item["ageSeconds"]),
                _seconds(item["maxAgeSeconds"]),
                item["workloads"],
                item["version"],
                item["leaseUntil"] or "",
            )
            for item in items
        ],
    )
    for item in items:
        if item["problem"]:
            say(f"{item['cluster']}: {item['problem']}")


def _seconds(value: Any) -> str:
    return "-" if value is None else f"{value:.0f} s"


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
    print_table(("NODE", "BANNED", "CLUSTER"), [(item["name"], item["banned"], item["cluster"]) for item in items])


def _print_workloads(items: list[dict[str, Any]]) -> None:
    rows = [
        (
            item["namespace"],
            item["name"],
            item["serviceAccount"],
            item["node"],
            item["phase"],
            _list(item["addresses"]),
            item["cluster"],
        )
        for item in items
    ]
    print_table(("NAMESPACE", "WORKLOAD", "ACCOUNT", "NODE", "PHASE", "ADDRESSES", "CLUSTER"), rows)


def _print_services(items: list[dict[str, Any]]) -> None:
    rows = [
        (item["registry"], item["namespace"], item["name"], _list(item["addresses"]), _list(item["ports"]))
        for item in items
    ]
    print_table(("REGISTRY", "NAMESPACE", "SERVICE", "ADDRESSES", "PORTS"), rows)


def _list(values: list[Any]) -> str:
    return ",".join(map(str, values))


_TABLES = {"nodes": _print_nodes, "workloads": _print_workloads, "services": _print_services}
