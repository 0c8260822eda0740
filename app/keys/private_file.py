"""Files with secrets: opened once, and only believed when nobody else can read them.

Mode and owner are those of the file that was opened, not of one that was looked at before (no race); symbolic links
are followed, because that is how Kubernetes mounts secrets.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from app.errors import AppError, ErrorCode


def _refused(sentence: str) -> AppError:
    return AppError(ErrorCode.FAILED_PRECONDITION, sentence)


@dataclass(frozen=True, slots=True)
class Reader:
    """Whose files are believed: those of this user and of root.

    A process that gives up its user keeps what it was, because the files are that user's.
    """

    user: int
    groups: frozenset[int] = field(default_factory=frozenset)

    @classmethod
    def this_process(cls) -> Self:
        """Who this process is now."""
        return cls(os.geteuid(), frozenset({os.getegid(), *os.getgroups()}))


def open_private(path: Path, *, what: str) -> int:
    """A descriptor of a file with a secret; `what` opens the sentences (`the key file`). The caller closes it.

    Raises:
        AppError: `FAILED_PRECONDITION` when it cannot be opened.
    """
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise _refused(f"{what} {path} does not exist") from None
    except OSError as error:
        raise _refused(f"{what} {path} cannot be read: {error.strerror}") from None


def read_private(descriptor: int, path: Path, *, what: str, max_bytes: int, reader: Reader | None = None) -> bytes:
    """The content of an open file, from its beginning, at most `max_bytes` and one more.

    Raises:
        AppError: `FAILED_PRECONDITION` when it is not a regular file, belongs to another user, or others can read it.
    """
    _check(os.fstat(descriptor), path, what, reader or Reader.this_process())
    try:
        return os.pread(descriptor, max_bytes + 1, 0)
    except OSError as error:
        raise _refused(f"{what} {path} cannot be read: {error.strerror}") from None


def read_secret_file(path: Path, *, what: str, max_bytes: int) -> bytes:
    """The content of a file with a secret, at most `max_bytes` and one more.

    Raises:
        AppError: `FAILED_PRECONDITION` as `open_private` and `read_private`.
    """
    descriptor = open_private(path, what=what)
    try:
        return read_private(descriptor, path, what=what, max_bytes=max_bytes)
    finally:
        os.close(descriptor)


def _check(status: os.stat_result, path: Path, what: str, reader: Reader) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _refused(f"{what} {path} is not a regular file")
    if status.st_uid not in (reader.user, 0):
        raise _refused(f"{what} {path} belongs to another user (uid {status.st_uid}); run: chown {reader.user} {path}")
    mode = stat.S_IMODE(status.st_mode)
    allowed = stat.S_IRWXU
    if status.st_uid == 0 != reader.user and status.st_gid in reader.groups:
        allowed |= stat.S_IRGRP  # how Kubernetes hands a secret to an unprivileged process (fsGroup)
    if mode & ~allowed:
        raise _refused(f"{what} {path} has mode {mode:04o}, so others could read it; run: chmod 600 {path}")
