"""The keeper of keys over a ring in this process."""

from __future__ import annotations

from datetime import timedelta

from app.authority.authority_ports import NewKey, StoredAuthority
from app.errors import AppError
from app.keys.key_ring import KeyRing


class RingSigner:
    """Signs workload certificates with an authority of a ring; implements `app.authority.ports.Signer`."""

    def __init__(self, ring: KeyRing, authority_id: str) -> None:
        self._ring = ring
        self._authority_id = authority_id

    async def sign(self, tbs: bytes) -> bytes:
        """A signature."""
        (answer,) = self._ring.sign_workloads(self._authority_id, [tbs])
        if isinstance(answer, AppError):
            raise answer
        return answer


class LocalKeyKeeper:
    """Implements `KeyKeeper` over a ring in this process."""

    def __init__(self, ring: KeyRing) -> None:
        self.ring = ring

    async def generate_key(self, authority_id: str) -> NewKey:
        """A new key."""
        return self.ring.generate_key(authority_id)

    async def open_authority(self, authority: StoredAuthority, *, max_lifetime: timedelta) -> None:
        """Open a stored key."""
        self.ring.open_authority(authority, max_lifetime=max_lifetime)

    async def close_authority(self, authority_id: str) -> None:
        """Forget a key."""
        self.ring.close_authority(authority_id)

    async def probe(self, authority_id: str) -> None:
        """Whether the key works."""
        self.ring.probe(authority_id)

    def signer(self, authority_id: str) -> RingSigner:
        """Signs workload certificates."""
        return RingSigner(self.ring, authority_id)

    async def sign_authority(self, authority_id: str, tbs: bytes) -> bytes:
        """Sign an authority's certificate."""
        return self.ring.sign_authority(authority_id, tbs)

    async def sign_csr(self, authority_id: str, request_info: bytes) -> bytes:
        """Sign a request."""
        return self.ring.sign_csr(authority_id, request_info)

    async def sign_crl(self, authority_id: str, tbs: bytes) -> bytes:
        """Sign a list."""
        return self.ring.sign_crl(authority_id, tbs)

    async def seal(self, name: str, secret: bytes) -> bytes:
        """Seal a secret."""
        return self.ring.seal(name, secret)

    async def unseal(self, name: str, sealed: bytes) -> bytes:
        """Open a sealed secret."""
        return self.ring.unseal(name, sealed)
