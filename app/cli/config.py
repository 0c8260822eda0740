"""`gatehouse config`: what the settings are, and whether they fit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.cli.text import Format, Output, print_facts, print_value

app = typer.Typer(name="config", help="Settings: check them, print them.", no_args_is_help=True)
ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="The settings file (or GATEHOUSE_CONFIG).")]


@app.command("check")
def check(config: ConfigFile = None) -> None:
    """Check the settings of the file and the environment; says the first thing that does not fit."""
    from app.settings import load_settings

    load_settings(config)
    print("the settings are fine")


@app.command("print")
def print_settings(config: ConfigFile = None, output: Output = Format.YAML) -> None:
    """Print every setting with its value in force, secrets masked."""
    from app.settings import describe, load_settings

    described = describe(load_settings(config))
    if output is Format.TABLE:
        print_facts(_flat(described, ""))
    else:
        print_value(described, output)


def _flat(value: object, path: str) -> dict[str, object]:
    if not isinstance(value, dict):
        return {path: value}
    flat: dict[str, object] = {}
    for key, part in value.items():
        flat |= _flat(part, f"{path}.{key}" if path else key)
    return flat
