"""`gatehouse ca converge`: let every certificate of the mesh be renewed by a deadline."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer

from app.cli.client import connect
from app.cli.failures import UsageError
from app.cli.options import ContextName
from app.cli.text import Format, Output, print_facts, print_table, print_value
from app.settings.durations import parse_duration

_PATH = "/v1/ca/convergence"


def converge(
    *,
    by: Annotated[str, typer.Option("--by", help="Start: how long from now (2h, 90m) or until when (RFC 3339).")] = "",
    reason: Annotated[str, typer.Option("--reason", help="Why; kept in the ledger.")] = "",
    cancel: Annotated[bool, typer.Option("--cancel", help="Issue with the usual lifetimes again.")] = False,
    output: Output = Format.TABLE,
    context: ContextName = "",
) -> None:
    """Issue so short certificates that all are renewed before a deadline; without --by, show how far it is."""
    if by and cancel:
        raise UsageError("--by and --cancel exclude each other")
    if reason and not (by or cancel):
        raise UsageError("--reason goes with --by or --cancel")
    with connect(context) as api:
        if cancel:
            answer, _ = api.call("DELETE", _PATH, query={"reason": reason})
        elif by:
            answer, _ = api.call("POST", _PATH, body={**_deadline(by), "reason": reason})
        else:
            answer = api.get(_PATH)
    if output is Format.TABLE:
        _print(answer)
    else:
        print_value(answer, output)


def _deadline(text: str) -> dict[str, Any]:
    try:
        return {"withinSeconds": parse_duration(text)}
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"--by {text!r} is neither a duration such as 2h or 90m nor a time such as 2026-11-23T18:00:00Z"
        ) from None
    if moment.tzinfo is None:
        raise UsageError(f"--by {text!r} names no time zone; end it with Z for UTC")
    return {"by": moment.isoformat()}


def _print(answer: dict[str, Any]) -> None:
    if not answer["active"]:
        print("nothing converges: certificates live as long as the settings say")
        return
    print_facts(
        {
            "deadline": answer["deadline"],
            "seconds left": answer["secondsLeft"],
            "started": f"{answer['startedAt']} by {answer['startedBy']}",
            "reason": answer["reason"],
            "renewed": answer["renewed"],
            "will renew in time": answer["pending"],
            "will renew too late": answer["late"],
        }
    )
    if answer["latest"]:
        print()
        print_table(
            ("IDENTITY", "NODE", "CLUSTER", "RENEWS"),
            [(each["identity"], each["node"], each["cluster"], each["renewsAt"]) for each in answer["latest"]],
        )
        if answer["late"] > len(answer["latest"]):
            print(f"and {answer['late'] - len(answer['latest'])} more")
        print()
        print("Who renews too late holds a certificate from before; restart that node's proxy to renew it at once.")
