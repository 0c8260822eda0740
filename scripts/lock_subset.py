#!/usr/bin/env python3
"""Print the entries of a lock that some packages need, with their hashes: scripts/lock_subset.py LOCK PACKAGE...

Reads the "via" comments that the lock carries, so that no resolver is needed where only the build backend is wanted.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path


def entries(text: str) -> dict[str, str]:
    """Each package's lines, by name."""
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if match := re.match(r"([a-z0-9][a-z0-9._-]*)==", line):
            name = match.group(1)
        if name:
            found[name] = found.get(name, "") + line + "\n"
    return found


def main() -> None:
    """Follow the "via" comments backwards from the wanted packages."""
    lock, *wanted = sys.argv[1:]
    packages = entries(Path(lock).read_text(encoding="utf-8"))
    via = re.compile(r"^ +# +(?:via +)?([a-z0-9._-]+)", re.MULTILINE)
    needed_by = {name: set(via.findall(text)) for name, text in packages.items()}
    chosen = set(wanted)
    while more := {name for name, by in needed_by.items() if by & chosen} - chosen:
        chosen |= more
    for name in sorted(chosen):
        sys.stdout.write(packages[name])


if __name__ == "__main__":
    main()
