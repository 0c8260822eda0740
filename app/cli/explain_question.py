"""The question of `gatehouse policy explain`: made from flags, answered from files, printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.cli.files import Found


def from_flags(
    *, source: str, method: str, path: str, host: str, headers: Sequence[str], to: str, at: str
) -> dict[str, Any]:
    """A question in the words of a decision case.

    Raises:
        AppError: `INVALID` when a flag cannot be read.
    """
    raise NotImplementedError


def over_files(question: dict[str, Any], documents: Sequence[Found]) -> dict[str, Any]:
    """The answer over a set of files.

    Raises:
        AppError: `INVALID` when the question or a document is not acceptable.
    """
    raise NotImplementedError


def print_answer(answer: dict[str, Any]) -> None:
    """The decision, the rules considered, the nearest miss."""
    raise NotImplementedError
