"""Text of strangers to JSON values: YAML and JSON, bounded, and meaning the same to every reader.

Both parsers refuse what two readers could take differently: a key given twice, a number that no float can hold,
and in YAML also tags, anchors, aliases, merge keys, and unquoted words that YAML 1.1 and 1.2 read differently
(`no`, `on`, `0123`). Timestamps stay strings. YAML is built from the event stream of libyaml, never from its
object constructors, so nothing is created that the text does not spell out, and every bound holds while reading.

A syntax error is `MALFORMED`; text that is well-formed but not acceptable is `INVALID`; both name the line where
they can.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, Self

from app.errors import AppError, ErrorCode, FieldError
from app.limits import PolicyLimits

if TYPE_CHECKING:
    import yaml
    from yaml.events import Event

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "True", "TRUE"})
_FALSE = frozenset({"false", "False", "FALSE"})
_AMBIGUOUS = frozenset(word for base in ("yes", "no", "on", "off") for word in (base, base.capitalize(), base.upper()))
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_OTHER_INTEGER = re.compile(r"[-+]?0[0-9]+|0[xo][0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_MAX_NUMBER_CHARS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class TextBounds:
    """How much text is too much."""

    max_bytes: int
    max_nodes: int
    max_nesting: int

    @classmethod
    def of(cls, limits: PolicyLimits, *, max_bytes: int) -> Self:
        """The bounds of policy documents, for a body of some size."""
        return cls(max_bytes=max_bytes, max_nodes=limits.max_yaml_nodes, max_nesting=limits.max_nesting)


def parse_json(data: bytes, bounds: TextBounds) -> Any:
    """The one JSON value (RFC 8259) in `data`.

    Raises:
        AppError: `TOO_LARGE`, `MALFORMED`, or `INVALID` with the reason.
    """
    text = _decode(data, bounds)
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise AppError(
            ErrorCode.MALFORMED, f"The text is not JSON: line {error.lineno}, column {error.colno}: {error.msg}."
        ) from None
    except RecursionError:
        raise _too_deep(bounds) from None
    except ValueError:  # an integer with thousands of digits
        raise AppError(ErrorCode.INVALID, "The text has a number that is too long.") from None
    _check_shape(value, bounds)
    return value


def parse_yaml(data: bytes, bounds: TextBounds) -> list[Any]:
    """The JSON values of all YAML documents in `data`; empty documents are left out.

    Raises:
        AppError: `TOO_LARGE`, `MALFORMED`, or `INVALID` with the line and the reason.
    """
    import yaml

    text = _decode(data, bounds)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    builder = _Builder(bounds, yaml.parse(text, Loader=loader))
    try:
        return builder.documents()
    except yaml.MarkedYAMLError as error:
        raise AppError(ErrorCode.MALFORMED, f"The text is not YAML: {_located(error)}.") from None
    except yaml.YAMLError as error:
        first_line = str(error).partition("\n")[0]
        raise AppError(ErrorCode.MALFORMED, f"The text is not YAML: {first_line}.") from None
    except RecursionError:
        raise _too_deep(bounds) from None


def parse_documents(data: bytes, *, is_json: bool, bounds: TextBounds) -> list[Any]:
    """All documents in a text: those of a YAML stream, the items of a JSON array, or one JSON value."""
    if not is_json:
        return parse_yaml(data, bounds)
    value = parse_json(data, bounds)
    return value if isinstance(value, list) else [value]


def _located(error: yaml.MarkedYAMLError) -> str:
    where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
    since = f" ({error.context}, line {error.context_mark.line + 1})" if error.context and error.context_mark else ""
    return f"{where}{error.problem or error.context}{since}"


def _decode(data: bytes, bounds: TextBounds) -> str:
    if len(data) > bounds.max_bytes:
        raise AppError(ErrorCode.TOO_LARGE, f"The text has {len(data)} bytes; at most {bounds.max_bytes} are read.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise AppError(ErrorCode.MALFORMED, f"The text is not UTF-8: line {line}.") from None


def _too_deep(bounds: TextBounds) -> AppError:
    return AppError(ErrorCode.INVALID, f"The text nests deeper than {bounds.max_nesting} levels.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                message = f"the key {key[:100]!r} is given twice in one object"
                raise AppError(ErrorCode.INVALID, f"In the text {message}.", errors=(FieldError("", message),))
            seen.add(key)
    return value


def _no_constant(name: str) -> NoReturn:
    raise AppError(ErrorCode.MALFORMED, f"The text is not JSON: {name} is not a JSON number.")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise AppError(ErrorCode.INVALID, "The text has a number that is too large.")
    return number


def _check_shape(value: Any, bounds: TextBounds) -> None:
    """Count values and levels without recursion."""
    level, nodes, depth = [value], 0, 0
    while level:
        nodes += len(level)
        if nodes > bounds.max_nodes:
            raise AppError(ErrorCode.TOO_LARGE, f"The text has more than {bounds.max_nodes} values.")
        containers = [node for node in level if isinstance(node, dict | list)]
        depth += 1
        if containers and depth > bounds.max_nesting:
            raise _too_deep(bounds)
        level = [child for node in containers for child in (node.values() if isinstance(node, dict) else node)]


@dataclass(slots=True)
class _Open:
    """A mapping or sequence that is being read; `key` is the mapping's newest key."""

    value: dict[str, Any] | list[Any]
    key: str = ""
    key_waits: bool = False  # for its value
    lines: dict[str, int] = field(default_factory=dict)


class _Builder:
    """JSON values out of YAML events."""

    def __init__(self, bounds: TextBounds, events: Iterator[Event]) -> None:
        self._bounds = bounds
        self._events = events
        self._open: list[_Open] = []
        self._nodes = 0

    def documents(self) -> list[Any]:
        """Every document that is not empty."""
        from yaml import events

        found: list[Any] = []
        for event in self._events:
            if isinstance(event, events.AliasEvent):
                self._refuse(event, "anchors and aliases are not read; write the value out")
            if isinstance(event, events.DocumentStartEvent) and event.tags:
                self._refuse(event, "tags are not read; remove the %TAG line")
            if isinstance(event, events.CollectionEndEvent):
                closed = self._open.pop().value
                if not self._open:
                    found.append(closed)
            elif isinstance(event, events.NodeEvent):
                self._check_node(event)
                self._take(event, found)
        return found

    def _take(self, event: Any, found: list[Any]) -> None:
        from yaml import events

        if not isinstance(event, events.ScalarEvent):
            value: dict[str, Any] | list[Any] = {} if isinstance(event, events.MappingStartEvent) else []
            self._place(event, value)
            self._open.append(_Open(value))
            if len(self._open) > self._bounds.max_nesting:
                raise _too_deep(self._bounds)
            return
        if self._open and isinstance(self._open[-1].value, dict) and not self._open[-1].key_waits:
            self._begin_key(event, self._open[-1])
            return
        scalar = self._scalar(event)
        self._place(event, scalar)
        if not self._open and scalar is not None:
            found.append(scalar)

    def _check_node(self, event: Any) -> None:
        self._nodes += 1
        if self._nodes > self._bounds.max_nodes:
            raise AppError(ErrorCode.TOO_LARGE, f"The text has more than {self._bounds.max_nodes} values.")
        if event.anchor is not None:
            self._refuse(event, "anchors and aliases are not read; write the value out")
        if event.tag is not None:
            self._refuse(event, "tags are not read; remove it, and put text into quotes")

    def _begin_key(self, event: Any, mapping: _Open) -> None:
        mapping.key = key = event.value
        if event.implicit[0]:
            if key == "<<":
                self._refuse(event, "merge keys are not read; write the values out")
            self._refuse_ambiguous(event)
        if key in mapping.lines:
            self._refuse(event, f"the key {key[:100]!r} is given twice, first in line {mapping.lines[key]}")
        mapping.lines[key] = event.start_mark.line + 1
        mapping.key_waits = True

    def _place(self, event: Any, value: Any) -> None:
        if not self._open:
            return
        parent = self._open[-1]
        if isinstance(parent.value, list):
            parent.value.append(value)
        elif not parent.key_waits:
            self._refuse(event, "a key must be a plain word or text in quotes")
        else:
            parent.value[parent.key] = value
            parent.key_waits = False

    def _scalar(self, event: Any) -> Any:
        text: str = event.value
        if not event.implicit[0]:
            return text  # quoted, or a block of text
        for words, meaning in ((_NULL, None), (_TRUE, True), (_FALSE, False)):
            if text in words:
                return meaning
        self._refuse_ambiguous(event)
        if _INTEGER.fullmatch(text) or _FLOAT.fullmatch(text):
            if len(text) > _MAX_NUMBER_CHARS:
                self._refuse(event, "the number is too long; put it in quotes if it is text")
            if _INTEGER.fullmatch(text):
                return int(text)
            number = float(text)
            if not math.isfinite(number):
                self._refuse(event, "the number is too large; put it in quotes if it is text")
            return number
        return text

    def _refuse_ambiguous(self, event: Any) -> None:
        text = event.value
        if text in _AMBIGUOUS or _OTHER_INTEGER.fullmatch(text) or _NOT_FINITE.fullmatch(text):
            self._refuse(event, f"{text[:100]!r} does not mean the same to every YAML reader; put it in quotes")

    def _refuse(self, event: Event, message: str) -> NoReturn:
        line = event.start_mark.line + 1 if event.start_mark else 0
        message = f"line {line}: {message}"
        raise AppError(
            ErrorCode.INVALID, f"The text is not acceptable: {message}.", errors=(FieldError(self._pointer(), message),)
        )

    def _pointer(self) -> str:
        """Where the reader is: the keys and indices of what is open."""
        steps = [
            level.key if isinstance(level.value, dict) else str(max(0, len(level.value) - 1)) for level in self._open
        ]
        return "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in steps)
