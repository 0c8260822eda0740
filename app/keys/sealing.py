"""Sealing of keys at rest: AES-256-GCM under a key that scrypt derives from the passphrase.

Layout of a sealed secret, version 1:

    "GHS1" | log2(n) 1 byte | r 1 byte | p 1 byte | salt 16 bytes | nonce 12 bytes | ciphertext and tag

Everything before the nonce and the secret's name are authenticated too, so a sealed key can neither be moved to
another name nor be given other parameters. All secrets of one installation share one salt (a new one is chosen only
where nothing was sealed before), so the slow derivation happens once a process.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from threading import Lock
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from app.errors import AppError, ErrorCode
from app.keys.passphrase import Passphrase

_MAGIC = b"GHS1"
_SALT_BYTES = 16
_NONCE_BYTES = 12
_TAG_BYTES = 16
_HEADER_BYTES = len(_MAGIC) + 3 + _SALT_BYTES
_KEY_BYTES = 32
MAX_SECRET_BYTES = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class ScryptCost:
    """The work factors of scrypt; 2^15, 8, 1 takes 32 MiB and some 60 ms (RFC 7914 §2)."""

    log2_n: int = 15
    r: int = 8
    p: int = 1

    @property
    def bearable(self) -> bool:
        """Whether deriving with it stays within 256 MiB and a second: a forged header must not cost more."""
        return 1 <= self.log2_n <= 18 and 1 <= self.r <= 8 and 1 <= self.p <= 4 and self.log2_n + self.r <= 26


@dataclass(frozen=True, slots=True)
class _Header:
    cost: ScryptCost
    salt: bytes

    @classmethod
    def parse(cls, sealed: bytes) -> Self | None:
        if len(sealed) < _HEADER_BYTES + _NONCE_BYTES + _TAG_BYTES or not sealed.startswith(_MAGIC):
            return None
        log2_n, r, p = sealed[len(_MAGIC) : len(_MAGIC) + 3]
        cost = ScryptCost(log2_n=log2_n, r=r, p=p)
        return cls(cost, sealed[_HEADER_BYTES - _SALT_BYTES : _HEADER_BYTES]) if cost.bearable else None

    def to_bytes(self) -> bytes:
        return _MAGIC + bytes((self.cost.log2_n, self.cost.r, self.cost.p)) + self.salt


class Sealer:
    """Seals and unseals small secrets under a passphrase."""

    def __init__(self, passphrase: Passphrase, *, cost: ScryptCost | None = None) -> None:
        self._passphrase = passphrase
        self._cost = cost or ScryptCost()
        self._ciphers: dict[_Header, AESGCM] = {}
        self._lock = Lock()

    def __repr__(self) -> str:
        return "Sealer(***)"

    def seal(self, name: str, secret: bytes) -> bytes:
        """Encrypt `secret` so that it only opens under the same name and passphrase."""
        if len(secret) > MAX_SECRET_BYTES:
            raise AppError(ErrorCode.TOO_LARGE, f"a secret of more than {MAX_SECRET_BYTES} bytes is not sealed")
        header = self._own_header()
        prefix = header.to_bytes()
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return prefix + nonce + self._cipher(header).encrypt(nonce, secret, _associated(prefix, name))

    def unseal(self, name: str, sealed: bytes) -> bytes:
        """Decrypt what `seal` made.

        Raises:
            AppError: `FAILED_PRECONDITION` when the passphrase is wrong, or the bytes or their name were changed.
        """
        header = _Header.parse(sealed)
        if header is None:
            raise AppError(
                ErrorCode.FAILED_PRECONDITION, f"the sealed key {name!r} is damaged or of an unknown version"
            )
        prefix, nonce = sealed[:_HEADER_BYTES], sealed[_HEADER_BYTES : _HEADER_BYTES + _NONCE_BYTES]
        try:
            return self._cipher(header).decrypt(
                nonce, sealed[_HEADER_BYTES + _NONCE_BYTES :], _associated(prefix, name)
            )
        except InvalidTag:
            raise AppError(
                ErrorCode.FAILED_PRECONDITION,
                f"the sealed key {name!r} does not open: the passphrase is wrong, or the key was changed",
            ) from None

    def _own_header(self) -> _Header:
        """The parameters to seal with: those already in use, so that one derivation serves all."""
        with self._lock:
            for header in self._ciphers:
                if header.cost == self._cost:
                    return header
        return _Header(self._cost, secrets.token_bytes(_SALT_BYTES))

    def _cipher(self, header: _Header) -> AESGCM:
        with self._lock:
            cipher = self._ciphers.get(header)
            if cipher is None:
                cipher = self._ciphers[header] = AESGCM(self._derive(header))
            return cipher

    def _derive(self, header: _Header) -> bytes:
        scrypt = Scrypt(
            salt=header.salt, length=_KEY_BYTES, n=1 << header.cost.log2_n, r=header.cost.r, p=header.cost.p
        )
        return scrypt.derive(self._passphrase.reveal())


def _associated(prefix: bytes, name: str) -> bytes:
    return prefix + name.encode()
