"""Durations as people write them: 90s, 15m, 2h, 3d."""

from __future__ import annotations

import re

from app.cli.failures import UsageError

_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_MAX_DIGITS = 9


def seconds_of(text: str, option: str) -> int:
    """The seconds in a duration such as 90s, 15m, 2h or 3d; a bare number is seconds.

    Raises:
        UsageError: when it is none.
    """
    found = re.fullmatch(rf"([0-9]{{1,{_MAX_DIGITS}}})([smhd]?)", text)
    if found is None:
        raise UsageError(f"{option} {text!r} is not a duration; write 90s, 15m, 2h or 3d")
    return int(found[1]) * _SECONDS[found[2] or "s"]
