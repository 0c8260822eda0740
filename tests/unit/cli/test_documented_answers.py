"""The answers that a guide shows are the answers that the commands give."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[3]
_GUIDE = (_ROOT / "docs/guides/questions.md").read_text(encoding="utf-8")
_SHOWN = re.findall(r"^    gatehouse ([^\n]* -f app/demo/[^\n]*)\n\n```\n(.*?)\n```$", _GUIDE, re.DOTALL | re.MULTILINE)


def test_the_guide_shows_answers() -> None:
    """Why, who can and what can."""
    assert 3 == len(_SHOWN)


@pytest.mark.parametrize(("command", "shown"), _SHOWN)
def test_a_shown_answer_is_the_real_one(run, monkeypatch, command, shown):
    """Up to the line on what the answer is about."""
    monkeypatch.chdir(_ROOT)
    result = run(*shlex.split(command))

    assert (0, shown) == (result.code, result.out.partition("\nabout ")[0].rstrip("\n")), result.err
