"""Documents from files, directories and standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.cli.failures import UsageError, progress
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

    Raises:
        AppError: `INVALID` when there is no document, or as `documents_in`.
    """
    found = [document for path in files_of(paths) for document in documents_in(path, named=path in paths)]
    if not found:
        raise UsageError(f"there are no documents in {', '.join(paths) or 'nothing'}")
    return found


def documents_in(path: str, *, named: bool) -> list[Found]:
    """The documents of one file; `kind: List` and plain lists are expanded, so that each has a place of its own.

    Decision cases are no documents: a file of them that was not `named` but found in a directory is left out, with a
    word to the reader.

    Raises:
        AppError: `INVALID` when it cannot be read, or was named and has decision cases.
    """
    values = read_values(path)
    if _are_cases(values):
        if named:
            raise UsageError(f"{path} has decision cases, not documents", next_step=f"gatehouse policy test {path}")
        progress(f"left out {path}: it has decision cases, which `gatehouse policy test` runs")
        return []
    expanded = _expanded(values)
    return [
        Found(f"{path}, document {index + 1}" if len(expanded) > 1 else path, value)
        for index, value in enumerate(expanded)
    ]


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


def _are_cases(values: Sequence[Any]) -> bool:
    """Whether a file is one of decision cases; whatever could be meant as a document is not."""
    listed: list[Any] = []
    for value in values:
        cases = value.get("cases") if isinstance(value, dict) and "kind" not in value else value
        listed.extend(cases if isinstance(cases, list) else [cases])
    return bool(listed) and all(isinstance(case, dict) and {"request", "expected"} <= case.keys() for case in listed)


def _expanded(values: Sequence[Any]) -> list[Any]:
    from app.policy.document import expand_list

    return [document for value in values for document in expand_list(value)]
