#!/usr/bin/env python3
"""Every dependency that pyproject.toml names stands pinned and hashed in the lock of its group."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
GROUPS: dict[str, tuple[str, ...]] = {"runtime": (), "demo": ("demo",), "dev": ("dev",)}


def name_of(requirement: str) -> str:
    """The normalised package name of a requirement."""
    return re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0].lower().replace("_", "-").replace(".", "-")


def group_names(groups: dict[str, Any], group: str) -> set[str]:
    """The packages of a dependency group, with the groups that it includes."""
    names: set[str] = set()
    for item in groups[group]:
        names |= {name_of(item)} if isinstance(item, str) else group_names(groups, item["include-group"])
    return names


def main() -> int:
    """Compare, and say what is wrong."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    runtime = {name_of(item) for item in project["project"]["dependencies"]}
    problems = []
    for lock, groups in GROUPS.items():
        text = (ROOT / "requirements" / f"{lock}.lock").read_text(encoding="utf-8")
        blocks = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)
        pinned = {name_of(block): block for block in blocks if "==" in block.split("\n", 1)[0]}
        wanted = runtime.union(*(group_names(project["dependency-groups"], group) for group in groups))
        problems += [f"{lock}.lock: {name} is missing; run make lock" for name in sorted(wanted - pinned.keys())]
        problems += [f"{lock}.lock: {name} has no hash" for name, block in pinned.items() if "--hash=" not in block]
    for problem in problems:
        sys.stderr.write(problem + "\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
