"""A real signer process for tests, and an authority that it has open."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from app.authority.authority_ports import StoredAuthority
from app.ca.authority import Authority
from app.ca.csr import parse_csr
from app.ca.issuance import PreparedSvid, prepare
from app.ca.profile import TtlGrant, max_workload_lifetime
from app.keys.authorities import OpenAuthorities, open_authorities
from app.keys.signer_client import SignerClient
from app.keys.signer_settings import SignerSettings
from app.ledger.entry import LedgerEntry
from app.limits import SignerLimits
from tests.support.certificates import IDENTITY, LIMITS, PROFILE, TRUST_DOMAIN, make_csr, serial

CHEAP_SETTINGS = SignerSettings(trust_domain=str(TRUST_DOMAIN), scrypt_log2_n=4)
CSR = parse_csr(make_csr(), LIMITS)


def secret_file(content: bytes = b"correct horse battery") -> int:
    """A descriptor of a file that has no name."""
    descriptor = os.memfd_create("passphrase")
    os.write(descriptor, content)
    return descriptor


@asynccontextmanager
async def signer_client(
    settings: SignerSettings = CHEAP_SETTINGS,
    *,
    passphrase: bytes = b"correct horse battery",
    limits: SignerLimits | None = None,
    on_restart: Callable[[], None] = lambda: None,
) -> AsyncIterator[SignerClient]:
    """A started client, ended when the body ends."""
    descriptor = None if settings.passphrase_file else secret_file(passphrase)
    client = SignerClient(settings, limits or SignerLimits(), passphrase=descriptor, on_restart=on_restart)
    try:
        await client.start()
        yield client
    finally:
        await client.close()
        if descriptor is not None:
            os.close(descriptor)


class FewAuthorities:
    """Implements as much of `AuthorityStore` as a start needs."""

    def __init__(self) -> None:
        self.stored: tuple[StoredAuthority, ...] = ()

    async def list_authorities(self) -> tuple[StoredAuthority, ...]:
        return self.stored

    async def add_authorities(self, authorities: tuple[StoredAuthority, ...], entry: LedgerEntry) -> None:
        self.stored = tuple(authorities)

    async def get_sealed_key(self, name: str) -> bytes | None:
        raise NotImplementedError

    async def put_sealed_key(self, name: str, sealed: bytes) -> bytes:
        raise NotImplementedError


async def fresh_authorities(client: SignerClient, store: FewAuthorities | None = None) -> OpenAuthorities:
    """A root and an issuing authority, made and opened by the signer."""
    return await open_authorities(
        store or FewAuthorities(),
        client,
        trust_domain=TRUST_DOMAIN,
        now=datetime.now(UTC),
        max_lifetime=max_workload_lifetime(LIMITS),
        create=True,
    )


def prepared_now(authority: Authority, number: int = 7) -> PreparedSvid:
    """A certificate that waits for its signature, of now, because the signer has a real clock."""
    return prepare(
        IDENTITY,
        CSR,
        TtlGrant(seconds=3600),
        authority=authority,
        profile=PROFILE,
        now=datetime.now(UTC),
        serial=serial(number),
    )
