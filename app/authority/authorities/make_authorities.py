"""Makes authorities: keys, certificates, requests. Nothing is stored here; what is made is returned as rows.

A root's key is open only while it signs.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key

from app.authority.authorities.authority_ports import (
    AuthorityRole,
    AuthorityState,
    KeyKeeper,
    NewKey,
    StoredAuthority,
    UpstreamAuthority,
)
from app.authority.authorities.authority_set import (
    AuthoritySet,
    adopted_id,
    is_self_issued,
    parse_certificates,
    pem_of,
    refused,
)
from app.ca.authority import Authority
from app.ca.authority_issuance import (
    assemble_authority,
    assemble_request,
    prepare_issuing,
    prepare_request,
    prepare_root,
)
from app.ca.issuance import RANDOM_SERIAL_BYTES, serial_number
from app.ca.parent import is_issued_by
from app.ca.signing import AuthorityPublicKey
from app.errors import AppError, ErrorCode
from app.identity.spiffe import TrustDomain

_ID_BYTES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetimes:
    """How long what we make lives; an issuing authority never outlives its root."""

    root: timedelta = timedelta(days=3650)
    issuing: timedelta = timedelta(days=365)


class AuthorityMaker:
    """Makes authorities with keys that stay in a keeper."""

    def __init__(
        self,
        keeper: KeyKeeper,
        *,
        trust_domain: TrustDomain,
        max_lifetime: timedelta,
        lifetimes: Lifetimes | None = None,
        upstream: UpstreamAuthority | None = None,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Prepare; workload certificates of up to `max_lifetime`, first and last second included, will be signed."""
        self.keeper = keeper
        self.trust_domain = trust_domain
        self._max_lifetime = max_lifetime
        self._lifetimes = lifetimes or Lifetimes()
        self._upstream = upstream
        self._random_bytes = random_bytes

    @property
    def has_upstream(self) -> bool:
        """Whether a parent elsewhere signs issuing authorities online."""
        return self._upstream is not None

    async def root_and_issuing(self, state: AuthorityState, now: datetime) -> tuple[StoredAuthority, StoredAuthority]:
        """A new root of our own and an issuing authority under it."""
        root_id, key = await self._new_key()
        try:
            prepared = prepare_root(
                self.trust_domain, _public_key(key), now=now, serial=self._serial(), lifetime=self._lifetimes.root
            )
            certificate = assemble_authority(prepared, await self.keeper.sign_authority(root_id, prepared.tbs))
            root = replace(_row(root_id, AuthorityRole.ROOT, state, now, key), certificate_pem=pem_of(certificate))
            issuing = await self._sign_under(root, certificate, state, now, max_life=None)
        finally:
            await self._forget(root_id)
        return root, issuing

    async def issuing(
        self, known: AuthoritySet, root_id: str, now: datetime, *, max_life: timedelta | None = None
    ) -> tuple[StoredAuthority, ...]:
        """A prepared issuing authority under a root whose key is here, or under the parent that signs online.

        With a parent that has changed its root, that root comes along, prepared.

        Raises:
            AppError: `FAILED_PRECONDITION` when neither is there; what keeper and parent raise.
        """
        if self._upstream is not None:
            return await self._from_upstream(known, self._upstream, now)
        root = known.find(root_id)
        if not (root.sealed_key or root.key_ref):
            raise refused(
                "the key of the root is not here, so it cannot sign by itself: make a request with "
                "`gatehouse ca csr`, have it signed, and bring the answer with `gatehouse ca import FILE`"
            )
        async with self._opened(root):
            made = await self._sign_under(root, known.certificates[root.id], AuthorityState.PREPARED, now, max_life)
        return (made,)

    def moved(
        self, made: tuple[StoredAuthority, ...], before: AuthoritySet, known: AuthoritySet, now: datetime
    ) -> tuple[StoredAuthority, ...]:
        """What a parent signed while others changed the authorities: the rows for the set that is known now.

        Raises:
            AppError: `FAILED_PRECONDITION` when its root was removed or tainted meanwhile.
        """
        *roots, row = made
        known_roots = {one.id: one.certificate_pem for one in (*before.rows, *roots)}
        pem = f"{row.certificate_pem}\n{row.chain_pem}\n{known_roots[row.root_id]}"
        return complete(known, replace(row, certificate_pem="", chain_pem="", root_id=""), pem, now)

    async def request(self, now: datetime) -> StoredAuthority:
        """A new key and a request to sign it (PKCS#10), as a prepared authority without a certificate."""
        authority_id, key = await self._new_key()
        async with self._forgotten_on_failure(authority_id):
            csr_pem = await self._csr(authority_id, key)
        row = _row(authority_id, AuthorityRole.ISSUING, AuthorityState.PREPARED, now, key)
        return replace(row, csr_pem=csr_pem, source="import")

    async def open(self, row: StoredAuthority) -> None:
        """Make an authority's key usable.

        Raises:
            AppError: what the keeper raises.
        """
        await self.keeper.open_authority(row, max_lifetime=self._max_lifetime)

    async def close(self, authority_id: str) -> None:
        """Forget a key."""
        await self.keeper.close_authority(authority_id)

    async def _sign_under(
        self,
        root: StoredAuthority,
        certificate: x509.Certificate,
        state: AuthorityState,
        now: datetime,
        max_life: timedelta | None,
    ) -> StoredAuthority:
        authority_id, key = await self._new_key()
        prepared = prepare_issuing(
            _public_key(key),
            certificate,
            trust_domain=self.trust_domain,
            now=now,
            serial=self._serial(),
            lifetime=min(self._lifetimes.issuing, max_life or self._lifetimes.issuing),
        )
        async with self._forgotten_on_failure(authority_id):
            issued = assemble_authority(prepared, await self.keeper.sign_authority(root.id, prepared.tbs))
            row = _row(authority_id, AuthorityRole.ISSUING, state, now, key)
            row = replace(row, certificate_pem=pem_of(issued), root_id=root.id)
            await self.open(row)
        return row

    async def _from_upstream(
        self, known: AuthoritySet, upstream: UpstreamAuthority, now: datetime
    ) -> tuple[StoredAuthority, ...]:
        authority_id, key = await self._new_key()
        async with self._forgotten_on_failure(authority_id):
            csr_pem = await self._csr(authority_id, key)
            signed = await upstream.sign_intermediate(csr_pem, lifetime=self._lifetimes.issuing)
            row = _row(authority_id, AuthorityRole.ISSUING, AuthorityState.PREPARED, now, key)
            row = replace(row, csr_pem=csr_pem, source="upstream")
            made = complete(known, row, f"{signed.certificate_pem}\n{signed.chain_pem}\n{signed.root_pem}", now)
            await self.open(made[-1])
        return made

    async def _csr(self, authority_id: str, key: NewKey) -> str:
        prepared = prepare_request(self.trust_domain, _public_key(key), serial=self._serial())
        request = assemble_request(prepared, await self.keeper.sign_csr(authority_id, prepared.info))
        return request.public_bytes(Encoding.PEM).decode("ascii")

    async def _new_key(self) -> tuple[str, NewKey]:
        authority_id = self._random_bytes(_ID_BYTES).hex()
        return authority_id, await self.keeper.generate_key(authority_id)

    def _serial(self) -> int:
        return serial_number(self._random_bytes(RANDOM_SERIAL_BYTES))

    @asynccontextmanager
    async def _opened(self, row: StoredAuthority) -> AsyncIterator[None]:
        await self.open(row)
        try:
            yield
        finally:
            await self._forget(row.id)

    @asynccontextmanager
    async def _forgotten_on_failure(self, authority_id: str) -> AsyncIterator[None]:
        """An authority that does not come to be leaves no open key behind."""
        try:
            yield
        except BaseException:
            await self._forget(authority_id)
            raise

    async def _forget(self, authority_id: str) -> None:
        """Close a key. A keeper that cannot be asked has just lost it, and does not open it again."""
        with suppress(AppError):
            await self.keeper.close_authority(authority_id)


def complete(known: AuthoritySet, row: StoredAuthority, pem: str, now: datetime) -> tuple[StoredAuthority, ...]:
    """A prepared issuing authority with the certificate that a parent gave it, and before it the root if it is new.

    `pem` has the certificate first, then what is above it in order; the root may be missing when it is known.

    Raises:
        AppError: `MALFORMED`, or `INVALID` when these do not belong together or are not usable here.
    """
    certificates = parse_certificates(pem, what="the answer of the parent")
    if not certificates:
        raise AppError(ErrorCode.INVALID, "there is no certificate in it")
    own, *above = certificates
    root = above.pop() if above and is_self_issued(above[-1]) else _known_root(known, above[-1] if above else own)
    # Checks the whole chain, key usages and trust domain.
    chain = Authority.of(own, () if own == root else (*above, root), known.trust_domain, authority_id=row.id)
    if chain.not_after <= now:
        raise AppError(ErrorCode.INVALID, "the certificate or one above it has expired")
    rooted, added = place_root(known, root, row.source, now)
    return (
        *added,
        replace(row, certificate_pem=pem_of(own), chain_pem=pem_of(*above), root_id=rooted),
    )


def place_root(
    known: AuthoritySet, root: x509.Certificate, source: str, now: datetime
) -> tuple[str, tuple[StoredAuthority, ...]]:
    """The id of a root of ours by its certificate, and the row to add where it is new.

    Raises:
        AppError: `FAILED_PRECONDITION` when it was removed or is tainted.
    """
    for row in known.rows:
        if row.role == AuthorityRole.ROOT and known.certificates.get(row.id) == root:
            if row.state in (AuthorityState.RETIRED, AuthorityState.TAINTED):
                raise refused(f"the root {row.id} is {row.state} here, so nothing new is issued under it")
            return row.id, ()
    made = StoredAuthority(
        id=adopted_id(root),
        role=AuthorityRole.ROOT.value,
        state=AuthorityState.PREPARED.value,
        certificate_pem=pem_of(root),
        sealed_key=b"",
        created_at=now,
        source=source,
        state_since=now,
    )
    return made.id, (made,)


def _known_root(known: AuthoritySet, child: x509.Certificate) -> x509.Certificate:
    roots = [
        row for row in known.rows if row.role == AuthorityRole.ROOT and is_issued_by(child, known.certificates[row.id])
    ]
    if not roots:
        raise AppError(ErrorCode.INVALID, "its root is neither in it nor known here: add the root at the end")
    # One key may have had several certificates, the older of which were given up.
    chosen = min(roots, key=lambda row: row.state in (AuthorityState.RETIRED, AuthorityState.TAINTED))
    return known.certificates[chosen.id]


def _public_key(key: NewKey) -> AuthorityPublicKey:
    return cast("AuthorityPublicKey", load_der_public_key(key.public_key_der))


def _row(authority_id: str, role: AuthorityRole, state: AuthorityState, now: datetime, key: NewKey) -> StoredAuthority:
    """A row for a key that was just made; its certificate comes later."""
    return StoredAuthority(
        id=authority_id,
        role=role.value,
        state=state.value,
        certificate_pem="",
        sealed_key=key.sealed,
        created_at=now,
        key_ref=key.key_ref,
        state_since=now,
    )
