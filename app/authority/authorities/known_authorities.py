"""All authorities that are stored: whose certificates are believed, and which keys are ours."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from app.authority.authorities.authority_ports import AuthorityState, AuthorityStore, StoredAuthority
from app.ca.key_policy import key_hash
from app.errors import AppError

_log = structlog.get_logger()

_DISBELIEVED = frozenset({AuthorityState.TAINTED.value, AuthorityState.RETIRED.value})
_REFRESH_SECONDS = 2.0


class KnownAuthorities:
    """Follows the table of authorities; implements `IssuerTrust`. `refresh` once before it is asked."""

    def __init__(self, store: AuthorityStore) -> None:
        self._store = store
        self._states: dict[str, str] = {}
        self._keys: dict[str, frozenset[bytes]] = {}
        self._all_keys: frozenset[bytes] = frozenset()

    def is_believed(self, authority_id: str) -> bool:
        """See `IssuerTrust.is_believed`."""
        return self._states.get(authority_id, AuthorityState.RETIRED.value) not in _DISBELIEVED

    def keys(self) -> AbstractSet[bytes]:
        """SHA-256 hashes of the public keys (SubjectPublicKeyInfo) of every authority, whatever its state."""
        return self._all_keys

    async def refresh(self) -> None:
        """Read the table.

        Raises:
            AppError: `UNAVAILABLE` when the database cannot be asked.
        """
        self._take(await self._store.list_authorities())

    async def run(self) -> None:
        """Follow the table, for ever; what was read last holds while the database is away."""
        while True:
            await asyncio.sleep(_REFRESH_SECONDS)
            try:
                await self.refresh()
            except AppError as error:
                _log.warning("authorities_not_read", reason=error.detail)

    def _take(self, authorities: Sequence[StoredAuthority]) -> None:
        for authority in authorities:
            pem = authority.certificate_pem + authority.chain_pem
            if authority.id not in self._keys and authority.certificate_pem:
                self._keys[authority.id] = _keys_in(pem)
        self._states = {authority.id: authority.state for authority in authorities}
        self._all_keys = frozenset().union(*self._keys.values())


def _keys_in(pem: str) -> frozenset[bytes]:
    certificates = x509.load_pem_x509_certificates(pem.encode("ascii"))
    return frozenset(
        key_hash(each.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
        for each in certificates
    )
