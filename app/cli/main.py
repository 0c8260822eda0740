"""`gatehouse`: the command line.

Modules import what is heavy inside their commands, so that `--help` and `policy test` start at once. The commands
that run processes live in modules of their own (`serve`, `demo`, `bench`), each with a `register(app)`.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from typing import Annotated

import typer

from app import __version__
from app.cli import audit, ca, cert, config, contexts, grant, inventory, policy, quarantine, rego, status, token
from app.cli.failures import ExitCode, report
from app.errors import AppError

_RUNNERS = ("serve", "demo", "bench")

app = typer.Typer(
    name="gatehouse",
    help="Identity and policy authority for a sidecar-less service mesh.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"gatehouse {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Identity and policy authority for a sidecar-less service mesh."""


for _group in (policy, grant, rego, inventory, token, ca, cert, quarantine, audit, config, contexts):
    app.add_typer(_group.app)
app.command("status")(status.status)
for _name in _RUNNERS:
    if importlib.util.find_spec(f"app.cli.{_name}") is not None:
        importlib.import_module(f"app.cli.{_name}").register(app)


def main() -> None:
    """Run the command line and exit."""
    try:
        app()
    except AppError as error:
        sys.exit(report(error))
    except BrokenPipeError:
        # Whoever read our output has gone; keep the interpreter from complaining about it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.ERROR)


if __name__ == "__main__":
    main()
