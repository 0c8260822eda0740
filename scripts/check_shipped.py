#!/usr/bin/env python3
"""Run with an installed wheel's Python: the data that travels inside the wheel is there."""

from __future__ import annotations

import sys
from importlib.resources import files


def main() -> int:
    """Look for one file of each kind."""
    shipped = files("app") / "_shipped"
    missing = [name for name in ("migrations", "policies") if not any((shipped / name).iterdir())]
    for name in missing:
        sys.stderr.write(f"the wheel does not carry {name}\n")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
