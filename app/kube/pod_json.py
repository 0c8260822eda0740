"""Pods from JSON: six fields of each, one object at a time.

A page of pods is megabytes of text; it is decoded item by item, so that what is not kept is garbage at once and the
event loop gets its turn in between.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from sys import intern
from typing import Any

from app.identity.inventory import Workload
from app.kube.failures import ApiServerError

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()
_MAX_NAME_CHARS = 253
_MAX_VERSION_DIGITS = 39


@dataclass(frozen=True, slots=True)
class Pod:
    """What is read of a pod, and the resourceVersion at which it was so; `node` is empty before it is scheduled."""

    workload: Workload
    version: int


def read_pod(value: Any) -> Pod:
    """The six fields.

    Raises:
        ApiServerError: when it is not a pod.
    """
    metadata, spec, status = (_object(value, name) for name in ("metadata", "spec", "status"))
    workload = Workload(
        # Interned: a cluster has few namespaces, accounts, nodes and phases, and very many pods.
        namespace=intern(_text(metadata, "namespace")),
        name=_text(metadata, "name"),
        uid=_text(metadata, "uid"),
        service_account=intern(_text(spec, "serviceAccountName") or "default"),
        node=intern(_text(spec, "nodeName")),
        phase=intern(_text(status, "phase") or "Unknown"),
    )
    if not workload.namespace or not workload.name:
        raise ApiServerError("a pod has no name")
    return Pod(workload, read_version(metadata))


def read_version(metadata: Any) -> int:
    """The resourceVersion, which is comparable as a number.

    Raises:
        ApiServerError: when it is none.
    """
    text = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
    if not isinstance(text, str) or not text.isascii() or not text.isdigit() or len(text) > _MAX_VERSION_DIGITS:
        raise ApiServerError(f"a resourceVersion is not a number: {str(text)[:40]!r}")
    return int(text)


class PodPage:
    """One page of a list. `version` and `next_token` are known when the pods have been read."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.version = -1
        self.next_token = ""

    def pods(self) -> Iterator[Pod]:
        """Each pod in turn.

        Raises:
            ApiServerError: when it is not a list of pods.
        """
        try:
            yield from self._read(self._data.decode("utf-8"))
        except (ValueError, IndexError, RecursionError) as error:
            raise ApiServerError(f"the list of pods is not readable: {type(error).__name__}") from None
        if self.version < 0:
            raise ApiServerError("the list of pods has no resourceVersion")

    def _read(self, text: str) -> Iterator[Pod]:
        position = _expect(text, 0, "{")
        while True:
            name, position = _value(text, position)
            position = _expect(text, position, ":")
            position = _skip(text, position)
            if name == "items" and text[position] == "[":
                position = yield from _items(text, position + 1)
            else:
                value, position = _value(text, position)
                if name == "metadata":
                    self.version = read_version(value)
                    self.next_token = _text(value, "continue", max_chars=65_536)
            position = _skip(text, position)
            if text[position] == "}":
                return
            position = _expect(text, position, ",")


def _items(text: str, position: int) -> Generator[Pod, None, int]:
    """The elements of an array; gives back the position after it."""
    position = _skip(text, position)
    if text[position] == "]":
        return position + 1
    while True:
        value, position = _value(text, position)
        yield read_pod(value)
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


def _object(value: Any, name: str) -> dict[str, Any]:
    member = value.get(name) if isinstance(value, dict) else None
    if member is None and name != "metadata":
        return {}
    if not isinstance(member, dict):
        raise ApiServerError(f"an object's {name} is not readable")
    return member


def _text(value: Any, name: str, *, max_chars: int = _MAX_NAME_CHARS) -> str:
    text = value.get(name, "")
    if not isinstance(text, str) or len(text) > max_chars:
        raise ApiServerError(f"an object's {name} is not readable")
    return text
