#!/usr/bin/env python3
"""Fail on a skipped or expected-to-fail test that the committed list does not name.

Usage: scripts/check_skips.py JUNIT_XML. The list is tests/skips-allowed.txt: one test id a line, `#` begins a comment.
An entry that was not skipped is an error too, so that the list can only shrink. An entry after `? ` may be skipped or
not, because whether its program can be had is a matter of the machine; `*` in it stands for anything.
"""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

ALLOWED = Path(__file__).parent.parent / "tests" / "skips-allowed.txt"


def main() -> int:
    """Compare what was skipped with what may be."""
    root = ET.parse(sys.argv[1]).getroot()  # noqa: S314 - written by our own pytest a moment ago
    cases = list(root.iter("testcase"))
    skipped = {f"{case.get('classname')}::{case.get('name')}" for case in cases if case.find("skipped") is not None}
    lines = (line.partition("#")[0].strip() for line in ALLOWED.read_text(encoding="utf-8").splitlines())
    entries = {line for line in lines if line}
    maybe = [_pattern(entry[2:]) for entry in entries if entry.startswith("? ")]
    allowed = {entry for entry in entries if not entry.startswith("? ")}
    skipped -= {name for name in skipped - allowed if any(pattern.fullmatch(name) for pattern in maybe)}
    for name in sorted(skipped - allowed):
        sys.stderr.write(f"skipped, and not in {ALLOWED.name}: {name}\n")
    for name in sorted(allowed - skipped):
        sys.stderr.write(f"in {ALLOWED.name}, but not skipped: {name}\n")
    count = sum(case.find("skipped") is not None for case in cases)
    sys.stdout.write(f"{len(cases)} tests, {count} skipped, {len(allowed)} allowed\n")
    if not cases:
        sys.stderr.write("no tests ran\n")
    return 0 if cases and skipped == allowed else 1


def _pattern(entry: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, entry.split("*"))), re.DOTALL)


if __name__ == "__main__":
    sys.exit(main())
