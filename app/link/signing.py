"""Signatures over snapshot manifests: Ed25519 (RFC 8032), checked against one pinned public key.

A worker is configured with the public key of its authority and believes nothing else, whatever carries the
bytes: plain HTTP on one host, TLS through proxies, a file on disk. What is signed starts with a context line, so
that the same key could never be made to sign a manifest by asking it for something else.
"""

from __future__ import annotations

import base64
import binascii
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from app.errors import AppError, ErrorCode

_CONTEXT = b"gatehouse snapshot manifest v1\n"


class ManifestSigningKey:
    """The authority's snapshot key; implements `ManifestSigner`."""

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)

    @staticmethod
    def new_seed() -> bytes:
        """The 32 private bytes of a new key, to be sealed and kept."""
        return Ed25519PrivateKey.generate().private_bytes_raw()

    @property
    def public_text(self) -> str:
        """The public key as base64, which is how a worker's configuration names it."""
        return base64.b64encode(self._key.public_key().public_bytes_raw()).decode()

    def sign(self, manifest: bytes) -> bytes:
        """A detached signature over the manifest's bytes."""
        return self._key.sign(_CONTEXT + manifest)


class ManifestVerifier:
    """A worker's pinned public key."""

    def __init__(self, public_key: Ed25519PublicKey) -> None:
        self._key = public_key

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the base64 form.

        Raises:
            AppError: `INVALID` when it is not 32 bytes of base64.
        """
        try:
            return cls(Ed25519PublicKey.from_public_bytes(base64.b64decode(text.strip(), validate=True)))
        except (ValueError, binascii.Error) as error:
            raise AppError(
                ErrorCode.INVALID, "the snapshot public key is not 32 bytes in base64; `gatehouse status` prints it"
            ) from error

    def verify(self, manifest: bytes, signature: bytes) -> None:
        """Accept the signature or refuse.

        Raises:
            AppError: `UNAUTHENTICATED` when the signature was not made by the pinned key over these bytes.
        """
        try:
            self._key.verify(signature, _CONTEXT + manifest)
        except InvalidSignature as error:
            raise AppError(
                ErrorCode.UNAUTHENTICATED, "the snapshot manifest is not signed by the authority this worker trusts"
            ) from error
