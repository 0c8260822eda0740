"""`gatehouse cert list|show|watch`: what was issued, to whom, and whether it is renewed in time."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Annotated, Any

import typer

from app.cli.client import ApiClient, connect
from app.cli.durations import seconds_of
from app.cli.failures import UsageError
from app.cli.options import ContextName
from app.cli.text import Format, Output, print_facts, print_table, print_value, printable, say

Identity = Annotated[str, typer.Option("--identity", help="A SPIFFE ID, or the beginning of one with * at its end.")]
Node = Annotated[str, typer.Option("--node", help="The node it was issued for.")]
Cluster = Annotated[str, typer.Option("--cluster", help="The cluster of the node.")]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="The namespace of the identity.")]
Serial = Annotated[str, typer.Option("--serial", help="The serial number, in hexadecimal.")]
Authority = Annotated[str, typer.Option("--authority", help="The id of the authority that signed it.")]
_HEADERS = ("SERIAL", "IDENTITY", "NODE", "NOT AFTER", "STATE", "QUARANTINE")


def list_certificates(
    *,
    identity: Identity = "",
    node: Node = "",
    cluster: Cluster = "",
    namespace: Namespace = "",
    serial: Serial = "",
    authority: Authority = "",
    expiring_in: Annotated[
        str, typer.Option("--expiring-in", help="Only what expires within this time, such as 2h.")
    ] = "",
    current: Annotated[bool, typer.Option("--current", help="Only what has not expired.")] = False,
    overdue: Annotated[bool, typer.Option("--overdue", help="Only what should have been renewed and was not.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many, the newest first.")] = 100,
    output: Output = Format.TABLE,
    context: ContextName = "",
) -> None:
    """List issued certificates, the newest first."""
    asked = _query(identity, node, cluster, namespace, serial, authority)
    with connect(context) as api:
        if overdue:
            if asked or expiring_in or current:
                raise UsageError("--overdue stands alone, with --limit")
            _print_overdue(api.get("/v1/certificates/overdue", limit=limit), output)
            return
        if expiring_in:
            until = datetime.now(UTC) + timedelta(seconds=seconds_of(expiring_in, "--expiring-in"))
            asked |= {"expiringBefore": until.isoformat(), "current": "true"}
        if current:
            asked["current"] = "true"
        found = list(islice(api.pages("/v1/certificates", pageSize=min(limit, 1_000), **asked), limit))
    if output is Format.TABLE:
        print_table(_HEADERS, [_row(item) for item in found])
    else:
        print_value({"items": found}, output)


def show(
    serial: Annotated[str, typer.Argument(help="The serial number, in hexadecimal.", metavar="SERIAL")],
    *,
    output: Output = Format.TABLE,
    context: ContextName = "",
) -> None:
    """Show one certificate: its ledger entry, what is in it, whether it is in quarantine, and where its proof is."""
    digits = serial.replace(":", "")
    if not re.fullmatch(r"[0-9A-Fa-f]{1,64}", digits):
        raise UsageError(f"{serial!r} is not a serial number; `gatehouse cert list` shows them")
    with connect(context) as api:
        found = api.get(f"/v1/certificates/{digits}")
    if output is not Format.TABLE:
        print_value(found, output)
        return
    facts = {
        "serial": found["serial"],
        "identity": found["identity"],
        "node": found["node"],
        "cluster": found["cluster"],
        "state": found["state"],
        "not before": found["notBefore"],
        "not after": found["notAfter"],
        "issuer": found["certificate"]["issuer"],
        "quarantine": found["quarantine"],
        "on a revocation list": found["onCrl"],
        "issued for": found["entry"]["actor"],
        "request": found["entry"]["requestId"],
        "ledger index": found["ledger"]["index"],
        "proof": f"gatehouse audit proof {found['serial']}",
    }
    print_facts(facts)
    print(found["certificate"]["pem"], end="")


def watch(
    *,
    identity: Identity = "",
    node: Node = "",
    cluster: Cluster = "",
    namespace: Namespace = "",
    authority: Authority = "",
    for_time: Annotated[str, typer.Option("--for", help="End after this time, such as 10m; else never.")] = "",
    output: Annotated[Format, typer.Option("--output", "-o", help="json prints one object a line.")] = Format.TABLE,
    context: ContextName = "",
) -> None:
    """Print certificates as they are issued, until interrupted."""
    if output is Format.YAML:
        raise UsageError("watch prints a table or json, one object a line")
    asked = _query(identity, node, cluster, namespace, "", authority)
    ends = None
    if for_time:
        ends = datetime.now(UTC) + timedelta(seconds=seconds_of(for_time, "--for"))
    with connect(context) as api:
        _watch(api, asked, ends, output)


def _watch(api: ApiClient, asked: dict[str, str], ends: datetime | None, output: Format) -> None:
    cursor = ""
    while ends is None or datetime.now(UTC) < ends:
        left = 25.0 if ends is None else min(25.0, max(0.0, (ends - datetime.now(UTC)).total_seconds()))
        get = api.get_patiently if cursor else api.get  # what is issued meanwhile comes after a restart
        found = get("/v1/certificates/watch", cursor=cursor, waitSeconds=left, **asked)
        cursor = found["cursor"]
        for item in found["items"]:
            if output is Format.JSON:
                print(json.dumps(item), flush=True)
            else:
                print("   ".join(printable(str(cell or "-")) for cell in _row(item)), flush=True)


def _query(identity: str, node: str, cluster: str, namespace: str, serial: str, authority: str) -> dict[str, str]:
    asked = {
        "identity": identity,
        "node": node,
        "cluster": cluster,
        "namespace": namespace,
        "serial": serial,
        "authority": authority,
    }
    return {name: value for name, value in asked.items() if value}


def _row(item: dict[str, Any]) -> tuple[Any, ...]:
    return (item["serial"], item["identity"], item["node"], item["notAfter"], item["state"], item["quarantine"])


def _print_overdue(found: dict[str, Any], output: Format) -> None:
    if output is not Format.TABLE:
        print_value(found, output)
        return
    words = {True: "yes", False: "no longer", None: "not known"}
    rows = [
        (item["identity"], item["node"], item["notAfter"], item["serial"], words[item["placed"]])
        for item in found["items"]
    ]
    print_table(("IDENTITY", "NODE", "NOT AFTER", "SERIAL", "STILL THERE"), rows)
    if found["count"] > len(rows):
        say(f"and {found['count'] - len(rows)} more; --limit shows them")
