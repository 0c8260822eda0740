"""Pages of lists from JSON, one object at a time.

A page is megabytes of text; it is decoded item by item, so that what is not kept is garbage at once and the event loop
gets its turn in between.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Iterator
from typing import Any, Generic, Protocol, TypeVar

from app.kube.failures import ApiServerError

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()
_MAX_NAME_CHARS = 253
_MAX_VERSION_DIGITS = 39


class Versioned(Protocol):
    """Whatever is read of an object."""

    @property
    def version(self) -> int:
        """The resourceVersion at which it was so."""
        ...


T = TypeVar("T", bound=Versioned)


def read_version(metadata: Any) -> int:
    """The resourceVersion, which is comparable as a number.

    Raises:
        ApiServerError: when it is none.
    """
    text = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
    if not isinstance(text, str) or not text.isascii() or not text.isdigit() or len(text) > _MAX_VERSION_DIGITS:
        raise ApiServerError(f"a resourceVersion is not a number: {str(text)[:40]!r}")
    return int(text)


class ObjectPage(Generic[T]):
    """One page of a list. `version` and `next_token` are known when the objects have been read."""

    def __init__(self, data: bytes, read: Callable[[Any], T], *, word: str) -> None:
        """`word` is what the objects are called, in the plural."""
        self._data = data
        self._item = read
        self._word = word
        self.version = -1
        self.next_token = ""

    def items(self) -> Iterator[T]:
        """Each object in turn.

        Raises:
            ApiServerError: when it is not a list of such objects.
        """
        try:
            yield from self._read(self._data.decode("utf-8"))
        except (ValueError, IndexError, RecursionError) as error:
            raise ApiServerError(f"the list of {self._word} is not readable: {type(error).__name__}") from None
        if self.version < 0:
            raise ApiServerError(f"the list of {self._word} has no resourceVersion")

    def _read(self, text: str) -> Iterator[T]:
        position = _expect(text, 0, "{")
        while True:
            name, position = _value(text, position)
            position = _expect(text, position, ":")
            position = _skip(text, position)
            if name == "items" and text[position] == "[":
                position = yield from _items(text, position + 1, self._item)
            else:
                value, position = _value(text, position)
                if name == "metadata":
                    self.version = read_version(value)
                    self.next_token = text_of(value, "continue", max_chars=65_536)
            position = _skip(text, position)
            if text[position] == "}":
                return
            position = _expect(text, position, ",")


def _items(text: str, position: int, read: Callable[[Any], T]) -> Generator[T, None, int]:
    """The elements of an array; gives back the position after it."""
    position = _skip(text, position)
    if text[position] == "]":
        return position + 1
    while True:
        value, position = _value(text, position)
        yield read(value)
        position = _skip(text, position)
        if text[position] == "]":
            return position + 1
        position = _expect(text, position, ",")


def _value(text: str, position: int) -> tuple[Any, int]:
    return _DECODER.raw_decode(text, _skip(text, position))


def _skip(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    assert found is not None  # it matches nothing, too
    return found.end()


def _expect(text: str, position: int, character: str) -> int:
    position = _skip(text, position)
    if text[position] != character:
        raise ValueError(character)
    return position + 1


def object_of(value: Any, name: str) -> dict[str, Any]:
    """A member that is an object, empty when it is not there.

    Raises:
        ApiServerError: when it is something else, or there is no metadata.
    """
    member = value.get(name) if isinstance(value, dict) else None
    if member is None and name != "metadata":
        return {}
    if not isinstance(member, dict):
        raise ApiServerError(f"an object's {name} is not readable")
    return member


def text_of(value: Any, name: str, *, max_chars: int = _MAX_NAME_CHARS) -> str:
    """A member that is text, empty when it is not there.

    Raises:
        ApiServerError: when it is something else, or too long.
    """
    text = value.get(name, "")
    if not isinstance(text, str) or len(text) > max_chars:
        raise ApiServerError(f"an object's {name} is not readable")
    return text
