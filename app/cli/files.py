"""Documents from files, directories and standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.cli.failures import UsageError
from app.errors import AppError
from app.serving.documents_text import TextBounds, parse_documents

STDIN = "-"
SUFFIXES = frozenset({".yaml", ".yml", ".json"})
_BOUNDS = TextBounds(max_bytes=67_108_864, max_nodes=5_000_000, max_nesting=64)


@dataclass(frozen=True, slots=True)
class Found:
    """A document and where it stands, for error messages."""

    where: str
    value: Any


def read_documents(paths: Sequence[str]) -> list[Found]:
    """Every document in the files, in the files of the directories (recursively), or on standard input (`-`).

    `kind: List` is expanded, so that each document has a place of its own.

    Raises:
        AppError: `INVALID` when there is no document, or one cannot be read.
    """
    found = [
        Found(f"{where}, document {index + 1}" if len(values) > 1 else where, value)
        for where, values in ((str(path), _expanded(read_values(path))) for path in files_of(paths))
        for index, value in enumerate(values)
    ]
    if not found:
        raise UsageError(f"there are no documents in {', '.join(paths) or 'nothing'}")
    return found


def read_values(path: str | Path) -> list[Any]:
    """The values in one file: documents of a YAML stream, items of a JSON array, or one JSON value.

    Raises:
        AppError: `INVALID` with the file's name and the line.
    """
    data = _read(path)
    is_json = str(path).endswith(".json") or (not str(path).endswith((".yaml", ".yml")) and data.lstrip()[:1] in b"{[")
    try:
        return parse_documents(data, is_json=is_json and bool(data.strip()), bounds=_BOUNDS)
    except AppError as error:
        raise UsageError(f"{path}: {error.detail}", errors=error.errors) from None


def files_of(paths: Iterable[str]) -> Iterable[str]:
    """The files that are meant: those named, those in the directories named, and standard input.

    Raises:
        AppError: `INVALID` when a directory has none.
    """
    for path in paths:
        directory = Path(path)
        if path == STDIN or not directory.is_dir():
            yield path
            continue
        files = sorted(file for file in directory.rglob("*") if file.suffix in SUFFIXES and file.is_file())
        if not files:
            raise UsageError(f"the directory {path} has no .yaml, .yml or .json files")
        yield from map(str, files)


def _read(path: str | Path) -> bytes:
    if str(path) == STDIN:
        return sys.stdin.buffer.read(_BOUNDS.max_bytes + 1)
    try:
        with Path(path).open("rb") as file:
            return file.read(_BOUNDS.max_bytes + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None


def _expanded(values: Sequence[Any]) -> list[Any]:
    expanded: list[Any] = []
    for value in values:
        is_list = isinstance(value, dict) and value.get("kind") == "List" and isinstance(value.get("items"), list)
        expanded.extend(value["items"] if is_list else [value])
    return expanded
