"""The manifests of docs/guides/kubernetes.md, as whoever follows it applies them."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import yaml

_GUIDE = Path(__file__).parents[2] / "docs/guides/kubernetes.md"


def manifests() -> list[dict[str, Any]]:
    """Every object of the guide, in its order."""
    found: list[dict[str, Any]] = []
    for block in re.findall(r"(?:^(?: {4}.*|\s*)\n)+", _GUIDE.read_text(encoding="utf-8"), re.MULTILINE):
        if "\n    ---\n" in block:
            found += yaml.safe_load_all(textwrap.dedent(block))
    return found
