"""Sealing of keys at rest."""

from __future__ import annotations

from app.keys.passphrase import Passphrase


class Sealer:
    """Seals and unseals small secrets under a passphrase; the slow derivation happens once a process."""

    def __init__(self, passphrase: Passphrase) -> None:
        self._passphrase = passphrase

    def seal(self, name: str, secret: bytes) -> bytes:
        """Encrypt `secret` so that it only opens under the same name and passphrase."""
        raise NotImplementedError

    def unseal(self, name: str, sealed: bytes) -> bytes:
        """Decrypt what `seal` made.

        Raises:
            AppError: `FAILED_PRECONDITION` when the passphrase is wrong or the bytes were changed.
        """
        raise NotImplementedError
