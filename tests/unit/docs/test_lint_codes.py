"""The guide to the lint names every code, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from app.policy import ownership_findings
from app.policy.finding_codes import Code

_GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "lint.md"
_OWNERSHIP = {
    ownership_findings.ENFORCED_TWICE,
    ownership_findings.ENFORCED_BY_NOBODY,
    ownership_findings.PARTLY_ENFORCED,
    ownership_findings.NOT_PROJECTABLE,
    ownership_findings.NOT_CONFIRMED,
}


def test_the_table_of_codes_is_complete() -> None:
    """Each code has one row with its severity."""
    rows = re.findall(r"^\| `([A-Z0-9_]+)` \| (error|warning) \|", _GUIDE.read_text(encoding="utf-8"), re.MULTILINE)

    assert sorted([*(code.value for code in Code), *_OWNERSHIP]) == sorted(code for code, _ in rows)
