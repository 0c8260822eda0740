"""The key that signs the ledger's checkpoints: Ed25519 (RFC 8032), sealed at rest like the service's other keys."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.authority.authorities.authority_ports import AuthorityStore
from app.ledger.checkpoint import LogKey, note_of, text_of

LEDGER_KEY = "ledger"  # under which name it rests
Sealing = Callable[[str, bytes], Awaitable[bytes]]


class LedgerKey:
    """Signs checkpoints; `public` is what everybody verifies them with."""

    def __init__(self, seed: bytes, origin: str) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = LogKey(origin, self._key.public_key().public_bytes_raw())

    @classmethod
    async def open(cls, store: AuthorityStore, origin: str, *, seal: Sealing, unseal: Sealing) -> Self:
        """The stored key; made when there is none yet.

        Raises:
            AppError: `FAILED_PRECONDITION` when it does not open under this passphrase.
        """
        sealed = await store.get_sealed_key(LEDGER_KEY)
        if sealed is None:
            fresh = Ed25519PrivateKey.generate().private_bytes_raw()
            sealed = await store.put_sealed_key(LEDGER_KEY, await seal(LEDGER_KEY, fresh))
        return cls(await unseal(LEDGER_KEY, sealed), origin)

    def sign(self, size: int, root: bytes) -> str:
        """The signed note that says: the tree of `size` leaves has this root."""
        text = text_of(self.public.origin, size, root)
        return note_of(self.public, text, self._key.sign(text))
