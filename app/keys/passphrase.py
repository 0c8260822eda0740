"""The passphrase that all keys at rest are sealed under."""

from __future__ import annotations

from pathlib import Path


class Passphrase:
    """A secret that does not show itself."""

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def reveal(self) -> bytes:
        """The secret bytes."""
        return self._secret

    def __repr__(self) -> str:
        return "Passphrase(***)"


def read_passphrase_file(path: Path) -> Passphrase:
    """Read a passphrase that only this user can read.

    Raises:
        AppError: `FAILED_PRECONDITION` when it is missing, empty, or others could read it or own it.
    """
    raise NotImplementedError


def create_passphrase_file(path: Path) -> Passphrase:
    """Make a random passphrase and write it durably with mode 0600.

    Raises:
        AppError: `FAILED_PRECONDITION` when the file exists or cannot be written.
    """
    raise NotImplementedError


def parse_passphrase(text: str) -> Passphrase:
    """A passphrase handed in as text (an environment variable, a prompt).

    Raises:
        AppError: `FAILED_PRECONDITION` when it is too short.
    """
    raise NotImplementedError
