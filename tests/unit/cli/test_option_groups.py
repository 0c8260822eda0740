"""Options that are declared once, as the fields of a dataclass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import typer
from typer.testing import CliRunner

from app.cli.option_groups import with_groups


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Two options."""

    word: Annotated[str, typer.Option("--word", help="A word.")] = "none"
    many: Annotated[list[str], typer.Option("--many", help="Several.")] = field(default_factory=list)


def test_a_group_is_options_beside_others() -> None:
    """In the order of the parameters, each with its help and default; the command gets the dataclass."""
    got: list[tuple[str, Group]] = []

    def command(*, first: Annotated[str, typer.Argument()], group: Group, last: bool = False) -> None:
        """Say something."""
        got.append((first, group))

    app = typer.Typer()
    app.command()(with_groups(command))
    runs = [
        CliRunner().invoke(app, arguments)
        for arguments in (["x"], ["y", "--many", "a", "--word", "w", "--many", "b", "--last"], ["--help"])
    ]

    assert [0, 0, 0] == [run.exit_code for run in runs], [run.output for run in runs]
    assert [("x", Group()), ("y", Group(word="w", many=["a", "b"]))] == got
    assert "Say something." in runs[2].output
    assert runs[2].output.index("--word") < runs[2].output.index("--many") < runs[2].output.index("--last")
