"""Reads the members of a decision case, each as the type that it must have, and says in plain words when it is not."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from app.errors import AppError, ErrorCode

_CLOSE = 0.85
_MAX_SHOWN = 40
_MAX_PORT = 65_535


class CaseFields:
    """One object of a case, and where in the case it stands."""

    def __init__(self, value: Any, where: str = "", known: Collection[str] = ()) -> None:
        """Take an object; `null` is an empty one. Members that nobody reads may be there, misspelt ones may not.

        Raises:
            AppError: `INVALID` when it is not an object, or a member looks like a misspelt one of `known`.
        """
        if value is not None and not isinstance(value, Mapping):
            subject = f"`{where}`" if where else "a case"
            raise _invalid(f"{subject} must be an object, not {_shown(value)}")
        self._members: Mapping[Any, Any] = value or {}
        self._where = where
        for member in self._members:
            meant = _misspelt(member, known)
            if meant:
                raise _invalid(f"`{self._name(str(member)[:_MAX_SHOWN])}` is not known; did you mean `{meant}`?")

    def has(self, member: str) -> bool:
        """Whether the member is there and not null."""
        return self._members.get(member) is not None

    def text(self, member: str, default: str = "") -> str:
        """A string; the default when the member is missing or null."""
        value = self._members.get(member)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self._wrong(member, "text", value)
        return value

    def choice(self, member: str, choices: Collection[str], default: str | None = None) -> str:
        """One of the choices; without a default the member must be there."""
        value = self._members.get(member)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or value not in choices:
            wanted = "one of " + ", ".join(choices)
            raise self._wrong(member, wanted, value) if member in self._members else self._missing(member, wanted)
        return value

    def flag(self, member: str, default: bool) -> bool:
        """True or false."""
        value = self._members.get(member)
        if value is not None and not isinstance(value, bool):
            raise self._wrong(member, "true or false", value)
        return default if value is None else value

    def port(self, member: str) -> int:
        """A port number, also as text; 0 when there is none."""
        value = self._members.get(member)
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= len(str(_MAX_PORT)):
            value = int(value)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_PORT):
            raise self._wrong(member, f"a port, 0 to {_MAX_PORT}", value)
        return value or 0

    def items(self, member: str) -> Sequence[Any]:
        """A list; empty when there is none."""
        value = self._members.get(member)
        if value is not None and not isinstance(value, list | tuple):
            raise self._wrong(member, "a list", value)
        return value or ()

    def texts(self, member: str) -> tuple[str, ...]:
        """A list of strings; empty when there is none."""
        values = self.items(member)
        for value in values:
            if not isinstance(value, str):
                raise self._wrong(member, "a list of texts", values)
        return tuple(values)

    def object(self, member: str) -> Mapping[str, Any] | None:
        """An object as it is, or None."""
        value = self._members.get(member)
        if value is not None and not isinstance(value, Mapping):
            raise self._wrong(member, "an object", value)
        return value

    def fields(self, member: str, known: Collection[str] = ()) -> CaseFields:
        """The members of an object; none when it is missing."""
        return CaseFields(self._members.get(member), self._name(member), known)

    def names(self) -> tuple[str, ...]:
        """The members that are there.

        Raises:
            AppError: `INVALID` when a name is not text, as YAML may have it.
        """
        for member in self._members:
            if not isinstance(member, str):
                raise _invalid(f"`{self._where}`: the name {_shown(member)} must be text; put it into quotes")
        return tuple(self._members)

    def header_values(self, member: str) -> tuple[str, ...]:
        """A string or a number, or a list of such; null is a header that is absent."""
        value = self._members.get(member)
        if value is None:
            return ()
        values = value if isinstance(value, list) else [value]
        if any(isinstance(item, bool) or not isinstance(item, str | int | float) for item in values):
            raise self._wrong(member, "text, or a list of texts", value)
        return tuple(map(str, values))

    def _name(self, member: str) -> str:
        return f"{self._where}.{member}" if self._where else member

    def _missing(self, member: str, wanted: str) -> AppError:
        return _invalid(f"`{self._name(member)}` is missing; it must be {wanted}")

    def _wrong(self, member: str, wanted: str, value: Any) -> AppError:
        return _invalid(f"`{self._name(member)}` must be {wanted}, not {_shown(value)}")


def _misspelt(member: Any, known: Collection[str]) -> str:
    """The known name that a member differs from by about one letter."""
    if not isinstance(member, str) or member in known or len(member) > _MAX_SHOWN:
        return ""
    close = difflib.get_close_matches(member, [name for name in known if abs(len(name) - len(member)) <= 1], 1, _CLOSE)
    return close[0] if close else ""


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."


def _invalid(message: str) -> AppError:
    return AppError(ErrorCode.INVALID, message)
