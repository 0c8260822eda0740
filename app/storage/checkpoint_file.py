"""The high-water file: the newest checkpoint that this host has seen, outside the database.

A database can be put back to an older state without leaving a trace in itself; this file and the memories of the
workers are what such a database is compared with.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import structlog

from app.authority.ledger.rollback_guard import Accepted
from app.durable_files import sync_folder, write_durably
from app.errors import AppError, ErrorCode
from app.ledger.checkpoint import MAX_NOTE_BYTES

_log = structlog.get_logger(__name__)
_MAX_LOSSES = 1_000


class CheckpointFile:
    """Implements `app.authority.ledger.rollback_guard.CheckpointMemory`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_condemned = False

    def remember(self, note: str) -> None:
        """Keep a checkpoint durably in place of the one before.

        Raises:
            AppError: `UNAVAILABLE` when it cannot be written: then the checkpoint must not be shown to anybody.
        """
        if not self._is_condemned:
            self._write(note)

    def condemn(self, note: str) -> None:
        """Keep a checkpoint that the database does not hold up to; from now on nothing replaces it."""
        self._is_condemned = True
        try:
            self._write(note)
        except AppError as error:
            _log.error("remembered_checkpoint_not_kept", reason=error.detail)

    def _write(self, note: str) -> None:
        try:
            write_durably(self._path, note.encode())
            sync_folder(self._path.parent)
        except OSError as error:
            raise AppError(ErrorCode.UNAVAILABLE, f"cannot write {self._path}: {error.strerror}") from error


def read_note(path: Path) -> str:
    """A remembered checkpoint.

    Raises:
        AppError: `FAILED_PRECONDITION` when the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(MAX_NOTE_BYTES + 1).decode("utf-8", "replace")
    except OSError as error:
        raise AppError(ErrorCode.FAILED_PRECONDITION, f"cannot read {path}: {error.strerror}") from error


def read_accepted(path: Path) -> tuple[Accepted, ...]:
    """The losses that the owner of this host accepted; none when there is no file.

    Raises:
        AppError: `FAILED_PRECONDITION` when the file is not one of ours.
    """
    try:
        losses = json.loads(path.read_bytes())
        return tuple(Accepted(int(loss["size"]), int(loss["lostSize"])) for loss in losses)
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise AppError(
            ErrorCode.FAILED_PRECONDITION,
            f"{path} cannot be used ({error}); `gatehouse audit accept-rollback` writes it anew after it was removed",
        ) from error


def write_accepted(path: Path, losses: Sequence[Accepted]) -> None:
    """Keep the losses that were accepted, the newest of them when there are very many.

    Raises:
        AppError: `UNAVAILABLE` when it cannot be written.
    """
    value = [{"size": loss.size, "lostSize": loss.lost_size} for loss in losses[-_MAX_LOSSES:]]
    try:
        write_durably(path, json.dumps(value).encode())
        sync_folder(path.parent)
    except OSError as error:
        raise AppError(ErrorCode.UNAVAILABLE, f"cannot write {path}: {error.strerror}") from error
