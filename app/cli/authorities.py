"""`gatehouse ca ...`: authorities over time, step by step."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.client import ApiClient, connect
from app.cli.export_root import export_root
from app.cli.failures import UsageError, progress
from app.cli.options import ContextName, Reason, plain_id
from app.cli.text import Format, Output, print_facts, print_table, print_value, say

_WAIT_SECONDS = 5.0
_SHORT = 12  # characters of an id in a table; that many are enough to name it

AuthorityId = Annotated[str, typer.Argument(help="The authority's id, or its beginning.", metavar="ID")]
Force = Annotated[
    bool, typer.Option("--force", help="If it is not safe, ask for a second administrator instead of refusing.")
]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until it is safe, then do it.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `gatehouse ca`."""
    for name, command in (
        ("list", list_authorities),
        ("show", show),
        ("status", status),
        ("rotate", rotate),
        ("activate", activate),
        ("retire", retire),
        ("remove", remove),
        ("taint", taint),
        ("csr", csr),
        ("import", import_signed),
        ("export-root", export_root),
        ("pending", pending),
        ("approve", approve),
        ("reject", reject),
    ):
        app.command(name)(command)


def list_authorities(
    *,
    retired: Annotated[bool, typer.Option("--retired", help="Also those that are gone.")] = False,
    output: Output = Format.TABLE,
    context: ContextName = "",
) -> None:
    """List the authorities: state, end, who has received the root, what may be done next."""
    with connect(context) as api:
        found = api.get("/v1/authorities")
    if output is not Format.TABLE:
        print_value(found, output)
        return
    rows = [
        (
            item["id"][:_SHORT],
            item["role"],
            item["state"],
            item["source"],
            item["notAfter"] or "CSR is out",
            _received(item["coverage"]),
            ", ".join(step["step"] for step in item["steps"] if step["allowed"]),
        )
        for item in found["items"]
        if retired or item["state"] != "retired"
    ]
    print_table(("ID", "ROLE", "STATE", "SOURCE", "ENDS", "RECEIVED", "SAFE NOW"), rows)


def show(authority_id: AuthorityId, *, output: Output = Format.TABLE, context: ContextName = "") -> None:
    """Show one authority: what blocks each next step and until when, and which nodes lack its root."""
    with connect(context) as api:
        item = api.get(f"/v1/authorities/{plain_id(authority_id)}")
    if output is not Format.TABLE:
        print_value(item, output)
        return
    shown = ("id", "role", "state", "since", "source", "root", "subject", "notBefore", "notAfter", "key", "neededUntil")
    print_facts({name: item[name] for name in shown if item[name]} | {"received": _received(item["coverage"])})
    if item["steps"]:
        print()
        print_table(
            ("STEP", "SAFE NOW", "UNTIL", "WHY NOT", "WHAT TO DO"),
            [(step["step"], step["allowed"], step["until"], step["reason"], step["do"]) for step in item["steps"]],
        )
    if item["nodesWithout"]:
        print()
        print_table(
            ("CLUSTER", "NODE WITHOUT ITS ROOT", "WORKLOADS", "AT MOST UNTIL"),
            [(node["cluster"], node["node"], node["workloads"], node["until"]) for node in item["nodesWithout"]],
        )
    if item["csrPem"]:
        print()
        print(item["csrPem"], end="")


def status(*, output: Output = Format.TABLE, context: ContextName = "") -> None:
    """Say how a rotation stands: the bundle, the replicas, and each step that waits for something."""
    with connect(context) as api:
        found = api.get("/v1/authorities")
    if output is not Format.TABLE:
        print_value(found, output)
        return
    active = [item["id"][:_SHORT] for item in found["items"] if item["role"] == "issuing" and item["state"] == "active"]
    behind = [one for one in found["replicas"] if one["epoch"] < found["epoch"]]
    print_facts(
        {
            "signing": ", ".join(active) or "nothing",
            "bundle": f"{found['bundle']['sequence']}, since {found['bundle']['since']}",
            "replicas": f"{len(found['replicas'])}, behind: {len(behind) or 'none'}",
        }
    )
    if behind:
        print()
        print_table(
            ("REPLICA BEHIND", "LAST HEARD OF", "WHAT IT MEANS"),
            [(one["id"], one["seenAt"], _delay(one)) for one in behind],
        )
    waiting = [
        (item["id"][:_SHORT], item["role"], item["state"], step["step"], step["reason"], step["until"])
        for item in found["items"]
        if item["state"] in ("prepared", "retiring", "tainted")
        for step in item["steps"]
        if step["step"] in ("activate", "remove") and not step["allowed"]
    ]
    if waiting:
        print()
        print_table(("ID", "ROLE", "STATE", "STEP", "WAITS BECAUSE", "AT MOST UNTIL"), waiting)


def _delay(replica: dict[str, Any]) -> str:
    """What a replica that is behind means for the steps of a rotation."""
    if replica["holdsUpUntil"] is None:
        return "nothing: it may not issue any more"
    return (
        f"it may still issue: activate and remove wait until it follows, at most until {replica['holdsUpUntil']}; "
        "if it surely runs no more, --force with a second administrator does not wait"
    )


def rotate(
    role: Annotated[str, typer.Argument(help="root or issuing.", metavar="root|issuing")],
    *,
    reason: Reason = "",
    output: Output = Format.TABLE,
    context: ContextName = "",
) -> None:
    """Prepare a successor: a new issuing authority under the same parent, or a new root with one under it."""
    if role not in ("root", "issuing"):
        raise UsageError(f"{role!r} cannot be rotated; say root or issuing")
    with connect(context) as api:
        made, _ = api.call("POST", "/v1/authorities", body={"role": role, "reason": reason})
    _print_prepared(made, output)


def activate(
    authority_id: AuthorityId,
    *,
    wait: Wait = False,
    force: Force = False,
    reason: Reason = "",
    output: Output = Format.TABLE,
    context: ContextName = "",
) -> None:
    """Sign with an issuing authority from now on; also the way back to a retiring one."""
    _step("activate", authority_id, wait, force, reason, output, context)


def retire(
    authority_id: AuthorityId,
    *,
    reason: Reason = "",
    output: Output = Format.TABLE,
    context: ContextName = "",
) -> None:
    """Give up an authority that was prepared, before it signs."""
    _step("retire", authority_id, False, False, reason, output, context)


def remove(
    authority_id: AuthorityId,
    *,
    wait: Wait = False,
    force: Force = False,
    reason: Reason = "",
    output: Output = Format.TABLE,
    context: ContextName = "",
) -> None:
    """Take a root out of the bundle, or forget an issuing authority's key, when nothing needs it any more."""
    _step("remove", authority_id, wait, force, reason, output, context)


def taint(
    authority_id: AuthorityId,
    *,
    force: Force = False,
    reason: Reason = "",
    output: Output = Format.TABLE,
    context: ContextName = "",
) -> None:
    """Say that a key is not to be trusted: it signs nothing any more."""
    _step("taint", authority_id, False, force, reason, output, context)


def csr(
    *,
    output_file: Annotated[Path | None, typer.Option("--file", help="Write the CSR to a file.")] = None,
    reason: Reason = "",
    output: Output = Format.TABLE,
    context: ContextName = "",
) -> None:
    """Make a key and print its CSR, for a parent that is offline; `gatehouse ca import` takes the answer."""
    with connect(context) as api:
        made, _ = api.call("POST", "/v1/authorities/csr", body={"reason": reason})
    if output_file is not None:
        try:
            output_file.write_text(made["csrPem"], encoding="ascii")
        except OSError as error:
            raise UsageError(f"cannot write {output_file}: {error.strerror}") from None
        say(f"{made['ids'][-1]}: have {output_file} signed as an authority with path length 0")
    elif output is Format.TABLE:
        print(made["csrPem"], end="")
    else:
        print_value(made, output)


def import_signed(
    file: Annotated[Path, typer.Argument(help="The certificate, then what is above it, the root last (PEM).")],
    *,
    reason: Reason = "",
    output: Output = Format.TABLE,
    context: ContextName = "",
) -> None:
    """Take what a parent made of a CSR of ours; activate it afterwards."""
    try:
        pem = file.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {file}: {error}") from None
    with connect(context) as api:
        made, _ = api.call("POST", "/v1/authorities/import", body={"pem": pem, "reason": reason})
    _print_prepared(made, output)


def pending(*, output: Output = Format.TABLE, context: ContextName = "") -> None:
    """List acts that wait for a second administrator."""
    with connect(context) as api:
        found = api.get("/v1/pending-acts")
    if output is not Format.TABLE:
        print_value(found, output)
        return
    print_table(
        ("ID", "STATE", "ASKED BY", "EXPIRES", "DECIDED BY", "SHA256", "WHAT"),
        [
            (
                act["id"],
                act["state"],
                act["requestedName"],
                act["expiresAt"],
                act["decidedName"],
                act["sha256"],
                act["body"],
            )
            for act in found["items"]
        ],
    )


def approve(
    act_id: Annotated[str, typer.Argument(metavar="ID")],
    *,
    sha256: Annotated[
        str, typer.Option("--sha256", help="The hash of what you looked at, as `pending` shows it.", show_default=False)
    ],
    output: Output = Format.TABLE,
    context: ContextName = "",
) -> None:
    """Confirm what another administrator asked for, by the hash of exactly that."""
    with connect(context) as api:
        done, _ = api.call("POST", f"/v1/pending-acts/{plain_id(act_id)}/approve", body={"sha256": sha256})
    _print_done(done, output)


def reject(act_id: Annotated[str, typer.Argument(metavar="ID")], *, context: ContextName = "") -> None:
    """Let an act never be done."""
    with connect(context) as api:
        act, _ = api.call("POST", f"/v1/pending-acts/{plain_id(act_id)}/reject", body={})
    say(f"rejected {act['id']}")


def _step(step: str, authority_id: str, wait: bool, force: bool, reason: str, output: Format, context: str) -> None:
    path = f"/v1/authorities/{plain_id(authority_id)}"
    if wait and force:
        raise UsageError("--wait and --force exclude each other")
    with connect(context) as api:
        if wait:
            _wait_until_safe(api, path, step)
        done, _ = api.call("POST", f"{path}/{step}", body={"force": force, "reason": reason})
    _print_done(done, output)


def _wait_until_safe(api: ApiClient, path: str, step: str) -> None:
    """Look every few seconds; say what it waits for whenever that changes."""
    said = ""
    item = api.get(path)
    while True:
        found = next((one for one in item["steps"] if one["step"] == step), None)
        if found is None or found["allowed"] or not found["forcible"]:
            return  # the step itself says why not, if so
        line = f"waiting: {found['reason']}" + (f", at most until {found['until']}" if found["until"] else "")
        if line != said:
            progress(line)
            said = line
        time.sleep(_WAIT_SECONDS)
        item = api.get_patiently(path)  # this may take days, in which Gatehouse is restarted


def _print_prepared(made: dict[str, Any], output: Format) -> None:
    if output is not Format.TABLE:
        print_value(made, output)
        return
    for authority_id in made["ids"]:
        say(f"prepared {authority_id}")
    say(f"next: gatehouse ca activate {made['ids'][-1][:_SHORT]} --wait")


def _print_done(done: dict[str, Any], output: Format) -> None:
    act = done["pending"]
    if output is not Format.TABLE:
        print_value(done, output)
    elif act is not None:
        say(f"nothing is done yet: act {act['id']} waits for another administrator until {act['expiresAt']}")
        say(f"next, by somebody else: gatehouse ca approve {act['id']} --sha256 {act['sha256']}")
    else:
        for authority_id, state in done["changes"].items():
            say(f"{authority_id} {state}")


def _received(coverage: dict[str, Any] | None) -> str:
    return f"{coverage['covered']}/{coverage['workloads']}" if coverage else ""
