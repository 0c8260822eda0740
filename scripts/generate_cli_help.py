"""Write the blocks of CLI help in docs/cli.md and README.md from the commands themselves."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

ROOT = Path(__file__).parent.parent
WIDTH = 100
BLOCK = re.compile(r"(<!-- cli-help: made by make gen -->\n).*?(<!-- cli-help: end -->)", re.DOTALL)


def commands(command: Any, name: str, parent: Any = None) -> Iterator[tuple[str, str]]:
    """Each command's full name and help, parents first."""
    context = command.make_context(name, [], parent=parent, resilient_parsing=True, terminal_width=WIDTH)
    # Trailing spaces and the number of blank lines at the end are the library's business.
    text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines()).strip()
    yield context.command_path, text
    for child_name, child in getattr(command, "commands", {}).items():
        if not child.hidden:
            yield from commands(child, child_name, context)


def replace_block(page: Path, block: str) -> None:
    """Put a block between the marks of a page."""
    text, count = BLOCK.subn(lambda match: match[1] + block + match[2], page.read_text(encoding="utf-8"))
    if count != 1:
        sys.exit(f"{page.name} has no block for the CLI help")
    page.write_text(text, encoding="utf-8")


def main() -> None:
    """Write both files."""
    os.environ.update(COLUMNS=str(WIDTH), NO_COLOR="1")
    sys.path.insert(0, str(ROOT))
    from app.cli.main import app  # the width must be set before, and the checkout be importable

    found = list(commands(typer.main.get_command(app), "gatehouse"))
    sections = [f"### `{name}`\n\n```text\n{text}\n```\n" for name, text in found]
    replace_block(ROOT / "docs" / "cli.md", "\n" + "\n".join(sections) + "\n")
    replace_block(ROOT / "README.md", f"```\n{found[0][1]}\n```\n")


if __name__ == "__main__":
    main()
