"""One process per SQLite file and per journal, enforced by an advisory lock beside it.

SQLite before 3.51.3 can corrupt a WAL database when a checkpoint of one connection meets a write of another.
We therefore write through one connection of one process, and refuse to be the second process.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from app.errors import AppError, ErrorCode


class FileLock:
    """An exclusive lock that the kernel releases when its holder dies."""

    def __init__(self, path: Path, *, what: str = "database", rule: str = "SQLite file") -> None:
        """Prepare; `what` is in use and one `rule` serves one process, in the words of the refusal."""
        self._path = path
        self._what = what
        self._rule = rule
        self._descriptor = -1

    def acquire(self) -> None:
        """Take the lock now or not at all.

        Raises:
            AppError: `FAILED_PRECONDITION` naming the holder; `UNAVAILABLE` when the file cannot be opened.
        """
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise AppError(
                ErrorCode.UNAVAILABLE, f"cannot open {self._path}: {error.strerror}; check the state directory"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise AppError(
                ErrorCode.FAILED_PRECONDITION,
                f"the {self._what} is in use by another process (pid {holder}, lock {self._path}): "
                f"stop it first; one {self._rule} serves one authority process",
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lock back. The file stays: removing it would let two processes lock two files of one name."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
