"""Fields that documents of several kinds of ours have: a reason, a moment, a switch, and none that is not known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from app.errors import FieldError

MAX_REASON_CHARS = 1_024


def unknown_fields(spec: Mapping[str, Any], known: Iterable[str], pointer: str = "/spec") -> list[FieldError]:
    """One error for each field that is not known."""
    names = frozenset(known)
    message = f"this field is not known; known are {', '.join(sorted(names))}"
    return [
        FieldError(f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}", message)
        for key in spec
        if key not in names
    ]


def read_reason(value: Any, errors: list[FieldError]) -> str:
    """The reason that `/spec/reason` gives; one is wanted."""
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_REASON_CHARS or not value.isprintable():
        errors.append(FieldError("/spec/reason", f"say why, in one line of at most {MAX_REASON_CHARS} characters"))
        return ""
    return value


def read_moment(value: Any, pointer: str, errors: list[FieldError]) -> datetime | None:
    """A moment in UTC; None, and an error, for anything but a time with its zone."""
    try:
        parsed = datetime.fromisoformat(value)
        if parsed.tzinfo is not None:
            return parsed.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        pass
    errors.append(FieldError(pointer, "a time with its zone, such as 2030-01-31T12:00:00Z, is wanted"))
    return None


def read_switch(spec: Mapping[str, Any], key: str, errors: list[FieldError], *, default: bool = False) -> bool:
    """True or false."""
    value = spec.get(key, default)
    if isinstance(value, bool):
        return value
    errors.append(FieldError(f"/spec/{key}", "true or false is wanted"))
    return default
