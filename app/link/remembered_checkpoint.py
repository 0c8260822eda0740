"""The newest checkpoint of the ledger that a worker was told, kept beside its last good snapshot.

A worker judges nothing and cannot read it: it keeps what the authority says and tells it back. So an authority whose
database was put back to an older state hears of it from every worker.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from app.durable_files import sync_folder, write_durably
from app.link.wire import MAX_CHECKPOINT_BYTES

_log = structlog.get_logger(__name__)
FILE_NAME = "ledger-checkpoint"


class RememberedCheckpoint:
    """Implements `app.decision.ports.CheckpointMemory` in a file."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME
        self._note = ""
        try:
            with self._path.open("rb") as file:
                data = file.read(MAX_CHECKPOINT_BYTES + 1)
            self._note = data.decode() if len(data) <= MAX_CHECKPOINT_BYTES else ""
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            _log.warning("remembered_checkpoint_ignored", path=str(self._path), reason=str(error))

    @property
    def note(self) -> str:
        """What is remembered; empty when nothing is."""
        return self._note

    async def keep(self, note: str) -> None:
        """Remember this instead, durably; a disk that does not take it costs the memory of a restart, no more."""
        if note == self._note or len(note.encode("utf-8", "replace")) > MAX_CHECKPOINT_BYTES:
            return
        self._note = note
        try:
            await asyncio.to_thread(self._write, note)
        except OSError as error:
            _log.warning("remembered_checkpoint_not_kept", path=str(self._path), reason=str(error))

    def _write(self, note: str) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durably(self._path, note.encode())
        sync_folder(self._path.parent)
