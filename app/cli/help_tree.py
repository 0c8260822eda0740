"""The help of every command as Markdown, for docs/cli.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer.main

from app.cli.main import app

_WIDTH = 100


def help_tree() -> str:
    """One section a command, groups before their commands."""
    sections = _sections(typer.main.get_command(app), None)
    return "".join(f"\n### `{name}`\n\n```text\n{text.rstrip()}\n```\n" for name, text in sections)


def _sections(command: Any, parent: Any) -> Iterator[tuple[str, str]]:
    name = "gatehouse" if parent is None else command.name
    context = command.context_class(
        command, info_name=name, parent=parent, terminal_width=_WIDTH, **command.context_settings
    )
    yield context.command_path, command.get_help(context)
    for each in sorted(getattr(command, "commands", {}).values(), key=lambda each: each.name):
        if not each.hidden:
            yield from _sections(each, context)
