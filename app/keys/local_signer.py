"""A signer whose key lives in this process."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec


class LocalSigner:
    """Implements `app.authority.ports.Signer` with a key in memory."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key

    async def sign(self, tbs: bytes) -> bytes:
        """A DER ECDSA signature over `tbs`."""
        raise NotImplementedError
