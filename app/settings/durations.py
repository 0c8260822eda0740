"""Durations as people write them: `24h`, `90m`, `1h30m`, `45s`, or a number of seconds."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator

_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_PART = re.compile(r"([0-9]{1,9})([dhms])")
_WHOLE = re.compile(rf"(?:{_PART.pattern})+")
_MAX_SECONDS = 2**31


def parse_duration(value: object) -> int:
    """Whole seconds, more than none.

    Raises:
        ValueError: with a sentence that says what would be right.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        seconds = value
    elif isinstance(value, str) and value.isascii() and value.isdigit():
        seconds = int(value[:12])
    elif isinstance(value, str) and _WHOLE.fullmatch(value):
        seconds = sum(int(number) * _UNITS[unit] for number, unit in _PART.findall(value))
    else:
        raise ValueError(f"must be a duration such as 24h, 90m or a number of seconds, not {value!r}")
    if not 0 < seconds < _MAX_SECONDS:
        raise ValueError(f"must be between 1 s and 68 years, not {value!r}")
    return seconds


Seconds = Annotated[int, BeforeValidator(parse_duration)]
