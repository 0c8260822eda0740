"""The keeper of the authorities' keys, in this process: the same key ring that the signer process serves."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from app.ca.signing import AuthorityPrivateKey, sign_bytes
from app.identity.spiffe import TrustDomain
from app.keys.key_ring import KeyRing
from app.keys.local_keeper import LocalKeyKeeper
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


def local_keeper(
    sealer: Sealer | None = None,
    *,
    trust_domain: TrustDomain = TRUST_DOMAIN,
    now: Callable[[], datetime] = lambda: NOW,
) -> LocalKeyKeeper:
    """A keeper with an empty ring."""
    return LocalKeyKeeper(KeyRing(sealer or cheap_sealer(), trust_domain=trust_domain, now=now))
