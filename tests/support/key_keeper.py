"""The keeper of the authorities' keys, in this process: the same key ring that the signer process serves."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from app.authority.authorities.authority_ports import NewKey, StoredAuthority
from app.ca.signing import AuthorityPrivateKey, sign_bytes
from app.errors import AppError
from app.identity.spiffe import TrustDomain
from app.keys.key_ring import KeyRing
from app.keys.passphrase import Passphrase
from app.keys.sealing import ScryptCost, Sealer
from tests.support.certificates import NOW, TRUST_DOMAIN

CHEAP = ScryptCost(log2_n=4)


def cheap_sealer(passphrase: bytes = b"correct horse battery") -> Sealer:
    """A sealer whose derivation costs nothing."""
    return Sealer(Passphrase(passphrase), cost=CHEAP)


class AnythingSigner:
    """Implements `app.authority.ports.Signer` with a key in memory, and signs whatever it is given."""

    def __init__(self, key: AuthorityPrivateKey) -> None:
        self._key = key

    async def sign(self, tbs: bytes) -> bytes:
        return sign_bytes(self._key, tbs)


class RingSigner:
    """Signs workload certificates with an authority of a ring; implements `app.authority.ports.Signer`."""

    def __init__(self, ring: KeyRing, authority_id: str) -> None:
        self._ring = ring
        self._authority_id = authority_id

    async def sign(self, tbs: bytes) -> bytes:
        (answer,) = self._ring.sign_workloads(self._authority_id, [tbs])
        if isinstance(answer, AppError):
            raise answer
        return answer


class LocalKeyKeeper:
    """Implements `KeyKeeper` over a ring in this process."""

    def __init__(self, ring: KeyRing) -> None:
        self.ring = ring

    async def generate_key(self, authority_id: str) -> NewKey:
        return self.ring.generate_key(authority_id)

    async def open_authority(self, authority: StoredAuthority, *, max_lifetime: timedelta) -> None:
        self.ring.open_authority(authority, max_lifetime=max_lifetime)

    async def close_authority(self, authority_id: str) -> None:
        self.ring.close_authority(authority_id)

    async def probe(self, authority_id: str) -> None:
        self.ring.probe(authority_id)

    def signer(self, authority_id: str) -> RingSigner:
        return RingSigner(self.ring, authority_id)

    async def sign_authority(self, authority_id: str, tbs: bytes) -> bytes:
        return self.ring.sign_authority(authority_id, tbs)

    async def sign_csr(self, authority_id: str, request_info: bytes) -> bytes:
        return self.ring.sign_csr(authority_id, request_info)

    async def sign_crl(self, authority_id: str, tbs: bytes) -> bytes:
        return self.ring.sign_crl(authority_id, tbs)

    async def seal(self, name: str, secret: bytes) -> bytes:
        return self.ring.seal(name, secret)

    async def unseal(self, name: str, sealed: bytes) -> bytes:
        return self.ring.unseal(name, sealed)


def local_keeper(
    sealer: Sealer | None = None,
    *,
    trust_domain: TrustDomain = TRUST_DOMAIN,
    now: Callable[[], datetime] = lambda: NOW,
) -> LocalKeyKeeper:
    """A keeper with an empty ring."""
    return LocalKeyKeeper(KeyRing(sealer or cheap_sealer(), trust_domain=trust_domain, now=now))
