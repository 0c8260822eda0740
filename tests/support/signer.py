"""A real signer process for tests, and an authority that it has open."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509

from app.authority.authorities.authority_ports import AuthorityState, StoredAuthority
from app.authority.authorities.make_authorities import AuthorityMaker
from app.authority.ports import Signer
from app.ca.authority import Authority
from app.ca.csr import parse_csr
from app.ca.issuance import PreparedSvid, prepare
from app.ca.profile import TtlGrant, max_workload_lifetime
from app.keys.signer_client import SignerClient
from app.keys.signer_settings import SignerSettings
from app.limits import SignerLimits
from tests.support.certificates import IDENTITY, LIMITS, PROFILE, TRUST_DOMAIN, make_csr, serial

CHEAP_SETTINGS = SignerSettings(trust_domain=str(TRUST_DOMAIN), scrypt_log2_n=4)
MAX_LIFETIME = max_workload_lifetime(LIMITS)
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
    client = SignerClient(
        settings, limits or SignerLimits(), secrets=() if descriptor is None else (descriptor,), on_restart=on_restart
    )
    try:
        await client.start()
        yield client
    finally:
        await client.close()
        if descriptor is not None:
            os.close(descriptor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a signer made: the stored rows, and the issuing authority with its signer."""

    rows: tuple[StoredAuthority, StoredAuthority]
    active: Authority
    signer: Signer


def _read(row: StoredAuthority) -> x509.Certificate:
    return x509.load_pem_x509_certificate(row.certificate_pem.encode())


async def fresh_authorities(client: SignerClient) -> Made:
    """A root and an issuing authority, made and opened by the signer."""
    maker = AuthorityMaker(client, trust_domain=TRUST_DOMAIN, max_lifetime=MAX_LIFETIME)
    root, issuing = rows = await maker.root_and_issuing(AuthorityState.ACTIVE, datetime.now(UTC))
    active = Authority.of(_read(issuing), (_read(root),), TRUST_DOMAIN, authority_id=issuing.id)
    return Made(rows=rows, active=active, signer=client.signer(issuing.id))


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
