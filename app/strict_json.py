"""JSON of strangers that must mean the same to everybody who reads it (RFC 8259 §4 and §6 leave it open).

For small values that are parsed once: a token's claims, a request's body. `app.serving.documents_text` reads
documents of people, and says in which line something is wrong.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn


class NestingError(ValueError):
    """A value is nested deeper than it may be."""


def parse_strict_json(text: str | bytes, *, max_nesting: int) -> Any:
    """The one JSON value in a text; an object or a list is a level, and so is what is in the innermost one.

    Raises:
        NestingError: when it is nested deeper than `max_nesting` levels.
        ValueError: when it is not JSON, names a member twice, or has a number that is none here (NaN, 1e400).
    """
    try:
        value = json.loads(text, object_pairs_hook=unique_members, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError:
        raise NestingError("deeper than the parser can follow") from None
    level = [value]
    for _ in range(max_nesting):
        level = [below for item in level for below in _members(item)]
        if not level:
            return value
    raise NestingError(f"nested deeper than {max_nesting} levels")


def unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; of a name that is there twice, one parser takes the first value and another the last.

    Raises:
        ValueError: when a name is there twice.
    """
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name occurs twice")
    return value


def _members(item: Any) -> Any:
    if isinstance(item, dict):
        return item.values()
    return item if isinstance(item, list) else ()


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number
