"""`gatehouse quarantine`: cut somebody off, see what is cut off and what is not, lift it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from app.cli.client import connect
from app.cli.durations import seconds_of
from app.cli.failures import UsageError
from app.cli.options import ContextName
from app.cli.text import Format, Output, print_facts, print_table, print_value, say

app = typer.Typer(
    name="quarantine",
    help="Cut an identity, a node or a certificate off, with a receipt.",
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(help="The name of the quarantine, as list shows it.", metavar="NAME")]
Wait = Annotated[str, typer.Option("--wait", help="How long to wait for workers to confirm, such as 5s.")]
_PATH = "/v1/quarantines"


@app.command("add")
def add(
    *,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the history and for those who are denied by it.")],
    identity: Annotated[str, typer.Option("--identity", help="A SPIFFE ID, or NAMESPACE/SERVICE-ACCOUNT.")] = "",
    node: Annotated[str, typer.Option("--node", help="A node: nothing is issued for it any more.")] = "",
    cluster: Annotated[str, typer.Option("--cluster", help="The cluster of the node; else of any.")] = "",
    serial: Annotated[str, typer.Option("--serial", help="The serial number of a certificate, in hexadecimal.")] = "",
    until: Annotated[str, typer.Option("--until", help="How long it holds, such as 2h; else until it is lifted.")] = "",
    name: Annotated[str, typer.Option("--name", help="Its name; without one it gets one.")] = "",
    wait: Wait = "5s",
    output: Output = Format.TABLE,
    context: ContextName = "",
) -> None:
    """Put an identity, a node or a certificate in quarantine, and print the receipt."""
    if sum(map(bool, (identity, node, serial))) != 1:
        raise UsageError("name exactly one of --identity, --node and --serial")
    body = {
        "name": name,
        "reason": reason,
        **_identity(identity),
        "node": node or None,
        "cluster": cluster or None,
        "serial": serial or None,
        "forSeconds": seconds_of(until, "--until") if until else None,
    }
    with connect(context) as api:
        receipt, _ = api.call("POST", _PATH, query={"waitSeconds": seconds_of(wait, "--wait")}, body=body)
    _print_receipt(receipt, output)


@app.command("list")
def list_quarantines(*, output: Output = Format.TABLE, context: ContextName = "") -> None:
    """List quarantines."""
    with connect(context) as api:
        found = list(api.pages(_PATH))
    if output is not Format.TABLE:
        print_value({"items": found}, output)
        return
    rows = [(item["name"], _subject(item), item["state"], item["until"], item["reason"]) for item in found]
    print_table(("NAME", "SUBJECT", "STATE", "UNTIL", "REASON"), rows)


@app.command("show")
def show(name: Name, *, output: Output = Format.TABLE, context: ContextName = "") -> None:
    """Print the receipt of now: what is cut off, and what is not."""
    with connect(context) as api:
        receipt = api.get(_path_of(name))
    _print_receipt(receipt, output)


@app.command("lift")
def lift(
    name: Name,
    *,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the history.")] = "",
    wait: Wait = "5s",
    output: Output = Format.TABLE,
    context: ContextName = "",
) -> None:
    """Lift a quarantine: certificates are issued and requests pass again."""
    query = {"waitSeconds": seconds_of(wait, "--wait"), "reason": reason}
    with connect(context) as api:
        receipt, _ = api.call("DELETE", _path_of(name), query=query)
    _print_receipt(receipt, output)


def _identity(text: str) -> dict[str, str]:
    if not text or "://" in text:
        return {"identity": text} if text else {}
    namespace, slash, account = text.partition("/")
    if not slash or not namespace or not account or "/" in account:
        raise UsageError(f"{text!r} is neither a SPIFFE ID nor NAMESPACE/SERVICE-ACCOUNT")
    return {"namespace": namespace, "serviceAccount": account}


def _path_of(name: str) -> str:
    if not name or not all(character.isascii() and (character.isalnum() or character in "-._") for character in name):
        raise UsageError(f"{name!r} is not the name of a quarantine; `gatehouse quarantine list` shows them")
    return f"{_PATH}/{name}"


def _subject(item: dict[str, Any]) -> str:
    return ", ".join(f"{kind} {value}" for kind, value in item["subject"].items())


def _print_receipt(receipt: dict[str, Any], output: Format) -> None:
    if output is not Format.TABLE:
        print_value(receipt, output)
        return
    workers, certificates = receipt["workers"], receipt["certificates"]
    lists = [f"{crl['issuer'][:12]} number {crl['number']} of {crl['publishedAt']}" for crl in receipt["crls"]]
    print_facts(
        {
            "name": receipt["name"],
            "subject": _subject(receipt),
            "state": receipt["state"],
            "reason": receipt["reason"],
            "until": receipt["until"],
            "issuing": receipt["issuing"],
            "workers": _confirmed(workers, receipt["snapshot"]),
            "certificates": f"{certificates['count']}{'' if certificates['isComplete'] else ' and more'}",
            "valid until": certificates["validUntil"],
            "revocation lists": "; ".join(lists),
        }
    )
    print()
    for warning in receipt["warnings"]:
        say(f"warning: {warning}")
    if not receipt["notCut"]:
        say("nothing is left over that this authority knows of")
        return
    say("not cut off yet:" if receipt["state"] == "holds" else "not restored yet:")
    for one in receipt["notCut"]:
        count = f" ({one['count']})" if "count" in one else ""
        until = f" until {one['until']}" if one.get("until") else ""
        say(f"  {one['what']}{count}{until}: {one['why']}")


def _confirmed(workers: dict[str, Any], snapshot: int) -> str:
    total = len(workers["confirmed"]) + len(workers["notConfirmed"])
    which = " that report to this replica" if workers["otherReplicas"] else ""
    return f"{len(workers['confirmed'])} of {total}{which} confirmed snapshot {snapshot}"
