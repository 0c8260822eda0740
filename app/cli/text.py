"""Text for terminals: tables, and nothing that a terminal would obey."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, TextIO

import typer


class Format(StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


Output = Annotated[Format, typer.Option("--output", "-o", help="How to print the result.")]


def print_value(value: Any, output: Format) -> None:
    """Print a JSON value as JSON or YAML."""
    if output is Format.YAML:
        write_yaml([value], sys.stdout, explicit_start=False)
    else:
        print(json.dumps(value, indent=2))


def print_documents(documents: Sequence[Mapping[str, Any]], output: Format) -> None:
    """Print documents so that `apply` reads them again: a YAML stream, or a List in JSON."""
    if output is Format.YAML:
        write_yaml([dict(document) for document in documents], sys.stdout, explicit_start=True)
    else:
        print(json.dumps({"apiVersion": "v1", "kind": "List", "items": list(documents)}, indent=2))


def print_table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print aligned columns, as kubectl does."""
    cells = [[*headers], *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
    for row in cells:
        print("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_facts(facts: Mapping[str, Any]) -> None:
    """Print names and values under each other."""
    width = max((len(name) for name in facts), default=0)
    for name, value in facts.items():
        print(f"{name.ljust(width)}   {_cell(value)}".rstrip())


def say(line: str) -> None:
    """Print one line of what came from elsewhere."""
    print(printable(line))


def counted(number: int, what: str) -> str:
    """A number with its noun, such as `1 error` and `2 errors`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def printable(text: str) -> str:
    """Text without control characters: what came from elsewhere must not steer the terminal."""
    return "".join(character if character.isprintable() else f"\\x{ord(character):02x}" for character in text)


def write_yaml(values: list[Any], stream: TextIO, *, explicit_start: bool) -> None:
    """Write a YAML stream that `apply` and `kubectl` read: without anchors, in the order that was given."""
    import yaml

    class Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc] # the fast one where it was built
        def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - `apply` does not read anchors
            return True

    yaml.dump_all(values, stream, Dumper=Dumper, sort_keys=False, explicit_start=explicit_start)


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return printable(str(value))
