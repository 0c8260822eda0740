"""`gatehouse context`: which Gatehouse the other commands talk to."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from app.cli.context import ContextFile, context_path, read_contexts, write_contexts
from app.cli.failures import UsageError
from app.cli.text import Format, Output, print_table, print_value, say

app = typer.Typer(name="context", help="Which Gatehouse the other commands talk to.", no_args_is_help=True)


@app.command("list")
def list_contexts(output: Output = Format.TABLE) -> None:
    """List the contexts, without their tokens."""
    file = read_contexts(context_path(os.environ))
    rows = [(name == file.current, name, each.url, each.ca_file) for name, each in sorted(file.contexts.items())]
    if output is Format.TABLE:
        print_table(("CURRENT", "NAME", "URL", "CA FILE"), rows)
    else:
        keys = ("current", "name", "url", "caFile")
        print_value({"items": [dict(zip(keys, row, strict=True)) for row in rows]}, output)


@app.command("use")
def use(name: Annotated[str, typer.Argument(help="The context to make current.")]) -> None:
    """Make a context the current one."""
    path = context_path(os.environ)
    file = read_contexts(path)
    if name not in file.contexts:
        raise UsageError(f"there is no context {name!r} in {path}", next_step="gatehouse context list")
    write_contexts(path, ContextFile(name, file.contexts))
    say(f"now using {name} ({file.contexts[name].url})")
