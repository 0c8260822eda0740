"""`gatehouse audit`: the ledger, asked of a running Gatehouse. `audit verify` checks what comes from there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli import audit_offline
from app.cli.client import ApiClient, connect
from app.cli.failures import UsageError, progress
from app.cli.options import ContextName, NewFile
from app.cli.text import Format, Output, print_facts, print_table, print_value, say

app = typer.Typer(
    name="audit", help="The ledger: what was issued and done, and proof that nothing was changed.", no_args_is_help=True
)
audit_offline.register(app)

_LIMIT = Annotated[int, typer.Option("--limit", min=1, help="At most so many.")]


@app.command("key")
def key(output: Output = Format.TABLE, context: ContextName = "") -> None:
    """Print the public key of the ledger. Keep it where nobody who runs Gatehouse can change it."""
    with connect(context) as api:
        found = api.get("/v1/ledger/key")
    if output is Format.TABLE:
        say(found["publicKey"])
    else:
        print_value(found, output)


@app.command("checkpoint")
def checkpoint(
    *,
    size: Annotated[
        int | None, typer.Option("--size", min=0, help="The kept one of this size, not the newest.")
    ] = None,
    output_file: NewFile = None,
    output: Annotated[Format, typer.Option("--output", help="table prints the signed note itself.")] = Format.TABLE,
    context: ContextName = "",
) -> None:
    """Print the newest signed checkpoint: what the ledger promises about itself."""
    with connect(context) as api:
        found = api.get("/v1/ledger/checkpoint", size=size)
    if output is Format.TABLE:
        _put(found["note"], output_file)
    else:
        print_value(found, output)


@app.command("list")
def list_entries(
    *,
    first: Annotated[int | None, typer.Option("--from", min=0, help="The index to begin with.")] = None,
    subject: Annotated[
        str, typer.Option("--subject", help="What the entries are about, for example a SPIFFE ID.")
    ] = "",
    kind: Annotated[str, typer.Option("--kind", help="For example certificate.issued or admin.act.")] = "",
    limit: _LIMIT = 100,
    output: Output = Format.TABLE,
    context: ContextName = "",
) -> None:
    """List entries in the order in which they were stored."""
    with connect(context) as api:
        items = _some(api, "/v1/ledger/entries", limit, first=first, subject=subject, kind=kind)
    if output is not Format.TABLE:
        print_value(items, output)
        return
    print_table(
        ("INDEX", "TIME", "KIND", "ACTOR", "SUBJECT"),
        [
            (item["index"], entry.get("time"), entry.get("kind"), entry.get("actor"), entry.get("subject"))
            for item in items
            for entry in (item["entry"],)
        ],
    )


@app.command("unfinished")
def unfinished(limit: _LIMIT = 1_000, output: Output = Format.TABLE, context: ContextName = "") -> None:
    """List certificates that were to be signed and are not on record: being issued now, or possibly signed."""
    with connect(context) as api:
        items = _some(api, "/v1/ledger/unfinished", limit)
    if output is Format.TABLE:
        print_table(("SERIAL", "TIME", "SUBJECT"), [(item["serial"], item["time"], item["subject"]) for item in items])
    else:
        print_value(items, output)


@app.command("proof")
def proof(
    serial: Annotated[str, typer.Argument(help="The serial number of a certificate, hexadecimal.")] = "",
    *,
    index: Annotated[int | None, typer.Option("--index", min=0, help="An entry instead, by its index.")] = None,
    output_file: NewFile = None,
    context: ContextName = "",
) -> None:
    """Get one file that proves a certificate, or any entry, to be in the ledger."""
    if bool(serial) == (index is not None):
        raise UsageError("name a certificate by its serial, or an entry with --index")
    with connect(context) as api:
        text, _ = api.fetch("/v1/ledger/proof", serial=serial, index=index)
    _put(text.decode(), output_file)


@app.command("consistency")
def consistency(
    old: Annotated[int, typer.Argument(min=0, help="The size of the older checkpoint.")],
    new: Annotated[int, typer.Argument(min=0, help="The size of the newer one.")],
    *,
    output_file: NewFile = None,
    context: ContextName = "",
) -> None:
    """Get the proof that the ledger of one size extends that of another, for `audit verify` with both checkpoints."""
    with connect(context) as api:
        text, _ = api.fetch(f"/v1/ledger/consistency/{old}/{new}")
    _put(text.decode(), output_file)


@app.command("export")
def export(
    *,
    output_file: Annotated[Path, typer.Option("--file", help="The file to write.", metavar="FILE")],
    size: Annotated[int | None, typer.Option("--size", min=1, help="Up to this kept checkpoint.")] = None,
    context: ContextName = "",
) -> None:
    """Write the whole ledger into a file, one JSON value a line, that `audit verify --log` checks."""
    partial = output_file.with_name(f"{output_file.name}.partial")
    try:
        with connect(context) as api, partial.open("wb") as file:
            following, goal = 0, size
            while goal is None or following < goal:
                piece, headers = api.fetch("/v1/ledger/export", first=following, size=goal)
                file.write(piece)
                following, goal = int(headers["gatehouse-next"]), int(headers["gatehouse-size"])
                progress(f"{following} of {goal} entries")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(output_file)
    except OSError as error:
        raise UsageError(f"cannot write {output_file}: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)
    print_facts({"file": output_file, "entries": goal})


def _some(api: ApiClient, path: str, limit: int, **query: Any) -> list[Any]:
    items: list[Any] = []
    for item in api.pages(path, pageSize=min(limit, 500), **query):
        items.append(item)
        if len(items) == limit:
            break
    return items


def _put(text: str, file: Path | None) -> None:
    if file is None:
        print(text, end="")
        return
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror}") from None
