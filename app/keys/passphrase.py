"""The passphrase that all keys at rest are sealed under.

It comes from a file of its own or, as text, from the environment or a prompt; it is never in the database, so that a
stolen database or backup opens nothing. What that does not protect: a thief of the whole state directory has the
passphrase file too, and whoever is root on the host can read it or the process.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from app.errors import AppError, ErrorCode
from app.keys.private_file import read_secret_file

MIN_PASSPHRASE_BYTES = 12
MAX_PASSPHRASE_BYTES = 4_096
_RANDOM_BYTES = 32


class Passphrase:
    """A secret that does not show itself: not in a repr, not in a log, not in a pickle."""

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def reveal(self) -> bytes:
        """The secret bytes, for key derivation only."""
        return self._secret

    def __repr__(self) -> str:
        return "Passphrase(***)"

    def __reduce__(self) -> str:
        raise TypeError("a passphrase does not travel")


def _refused(sentence: str) -> AppError:
    return AppError(ErrorCode.FAILED_PRECONDITION, sentence)


def parse_passphrase(text: str | bytes, *, source: str = "the passphrase") -> Passphrase:
    """A passphrase handed in as text, without the line end that editors and shells leave behind.

    Raises:
        AppError: `FAILED_PRECONDITION` when it is too short or absurdly long; `source` opens the sentence.
    """
    secret = (text.encode() if isinstance(text, str) else text).rstrip(b"\r\n")
    if len(secret) < MIN_PASSPHRASE_BYTES:
        raise _refused(f"{source} is shorter than {MIN_PASSPHRASE_BYTES} characters; use a long random one")
    if len(secret) > MAX_PASSPHRASE_BYTES:
        raise _refused(f"{source} is longer than {MAX_PASSPHRASE_BYTES} bytes")
    return Passphrase(secret)


def read_passphrase_file(path: Path) -> Passphrase:
    """Read a passphrase that nobody but this user and root can read.

    Raises:
        AppError: `FAILED_PRECONDITION` when it is missing, too short, readable by others or owned by another user.
    """
    if not path.exists():
        raise _refused(f"the passphrase file {path} does not exist; restore it, for the keys open with no other")
    content = read_secret_file(path, what="the passphrase file", max_bytes=MAX_PASSPHRASE_BYTES + 2)
    return parse_passphrase(content, source=f"the passphrase in {path}")


def create_passphrase_file(path: Path) -> Passphrase:
    """Make a random passphrase and write it durably, mode 0600; the folder is made with mode 0700 when missing.

    Returning means that a power loss keeps it: file and folder entry are on disk before any key is sealed under it.

    Raises:
        AppError: `FAILED_PRECONDITION` when the file exists already or cannot be written.
    """
    secret = secrets.token_urlsafe(_RANDOM_BYTES).encode("ascii")
    try:
        if not path.parent.exists():
            path.parent.mkdir(mode=0o700, parents=True)
            _sync_folder(path.parent.parent)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secret + b"\n")
            file.flush()
            os.fsync(descriptor)
        _sync_folder(path.parent)
    except FileExistsError:
        raise _refused(f"the passphrase file {path} exists already; it is never overwritten") from None
    except OSError as error:
        raise _refused(f"the passphrase file {path} cannot be written: {error.strerror}") from None
    return Passphrase(secret)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
