"""Opens the authorities at start: opens the stored keys, or makes the first root and issuing authority.

Making new ones is only done when the caller says that this is a first start: an installation that has lost its
database or its passphrase must not come up with a new root in silence, for every workload would stop trusting it.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key

from app.authority.authority_ports import AuthorityStore, KeyKeeper, NewKey, StoredAuthority
from app.authority.ports import Signer
from app.ca.authority import Authority
from app.ca.authority_issuance import assemble_authority, prepare_issuing, prepare_root
from app.ca.bundle import TrustBundle
from app.ca.issuance import RANDOM_SERIAL_BYTES, serial_number
from app.ca.signing import AuthorityPublicKey, authority_public_key
from app.errors import AppError, ErrorCode
from app.identity.spiffe import TrustDomain
from app.ledger.entry import EntryKind, LedgerEntry

ROOT, ISSUING, ACTIVE = "root", "issuing", "active"
_TRUSTED_STATES = frozenset({"prepared", ACTIVE, "retiring"})


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAuthorities:
    """What issuing needs: the active authority, its signer, and the bundle of all roots that are trusted now.

    `created` says that they were made by this very start.
    """

    active: Authority
    signer: Signer
    bundle: TrustBundle
    created: bool = False


def _refused(sentence: str) -> AppError:
    return AppError(ErrorCode.FAILED_PRECONDITION, sentence)


async def open_authorities(
    store: AuthorityStore,
    keeper: KeyKeeper,
    *,
    trust_domain: TrustDomain,
    now: datetime,
    max_lifetime: timedelta,
    create: bool,
) -> OpenAuthorities:
    """Open the stored authorities; with `create`, make them when there are none.

    Raises:
        AppError: `FAILED_PRECONDITION` when there are none and none may be made, a key does not open or does not
            belong to its certificate, or they are of another trust domain.
    """
    stored = await store.list_authorities()
    created = False
    if not stored:
        if not create:
            raise _refused(
                "the database has no certificate authority, and this is not a first start; restore the database, "
                "for a new root would cut off every workload"
            )
        made, entry = await make_authorities(keeper, trust_domain=trust_domain, now=now)
        try:
            await store.add_authorities(made, entry)
            created = True
        except AppError as error:
            if error.code is not ErrorCode.CONFLICT:
                raise
        for authority in made:
            await keeper.close_authority(authority.id)
        stored = await store.list_authorities()  # another replica may have been faster: theirs count then
    issuer, root, bundle = _choose(stored, trust_domain, now)
    try:
        active = Authority.of(_certificate(issuer), (root,), trust_domain, authority_id=issuer.id)
    except AppError as error:
        raise _refused(f"the stored certificate authority cannot be used: {error.detail}") from None
    await keeper.open_authority(issuer, max_lifetime=max_lifetime)
    return OpenAuthorities(active=active, signer=keeper.signer(issuer.id), bundle=bundle, created=created)


async def make_authorities(
    keeper: KeyKeeper, *, trust_domain: TrustDomain, now: datetime
) -> tuple[tuple[StoredAuthority, ...], LedgerEntry]:
    """A new root and issuing authority, keys sealed, and the ledger entry that records them. Nothing is stored yet."""
    root_serial, issuing_serial = _new_serial(), _new_serial()
    root_id, issuing_id = _new_id(ROOT, root_serial), _new_id(ISSUING, issuing_serial)
    root_key, issuing_key = await keeper.generate_key(root_id), await keeper.generate_key(issuing_id)
    prepared = prepare_root(trust_domain, _public_key(root_key), now=now, serial=root_serial)
    root = assemble_authority(prepared, await keeper.sign_authority(root_id, prepared.tbs))
    prepared = prepare_issuing(
        _public_key(issuing_key), root, trust_domain=trust_domain, now=now, serial=issuing_serial
    )
    issuing = assemble_authority(prepared, await keeper.sign_authority(root_id, prepared.tbs))
    made = tuple(
        StoredAuthority(
            id=id_,
            role=role,
            state=ACTIVE,
            certificate_pem=certificate.public_bytes(Encoding.PEM).decode("ascii"),
            sealed_key=key.sealed,
            key_ref=key.key_ref,
            created_at=now,
            root_id=root_id if role == ISSUING else "",
        )
        for id_, role, certificate, key in (
            (root_id, ROOT, root, root_key),
            (issuing_id, ISSUING, issuing, issuing_key),
        )
    )
    entry = LedgerEntry(
        kind=EntryKind.AUTHORITY_TRANSITION,
        time=now,
        actor="system",
        subject=str(trust_domain),
        detail={
            "transition": "created",
            "authorities": [
                {"id": authority.id, "role": authority.role, "state": authority.state, "pem": authority.certificate_pem}
                for authority in made
            ],
        },
    )
    return made, entry


def _choose(
    stored: Sequence[StoredAuthority], trust_domain: TrustDomain, now: datetime
) -> tuple[StoredAuthority, x509.Certificate, TrustBundle]:
    """The authority that issues, its root, and all roots that are trusted now."""
    roots = tuple(
        _certificate(authority) for authority in stored if authority.role == ROOT and authority.state in _TRUSTED_STATES
    )
    issuing = [authority for authority in stored if authority.role == ISSUING and authority.state == ACTIVE]
    if not roots or not issuing:
        raise _refused("the database has no active certificate authority; nothing can be issued")
    newest = max(issuing, key=lambda authority: authority.created_at)
    valid_roots = tuple(root for root in roots if root.not_valid_after_utc > now)
    return newest, _issuer_of(_certificate(newest), roots), TrustBundle.of(trust_domain, valid_roots)


def _certificate(authority: StoredAuthority) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(authority.certificate_pem.encode("ascii"))
    except (ValueError, x509.InvalidVersion):
        raise _refused(f"the certificate of the authority {authority.id} is damaged in the database") from None


def _issuer_of(certificate: x509.Certificate, roots: tuple[x509.Certificate, ...]) -> x509.Certificate:
    for root in roots:
        try:
            certificate.verify_directly_issued_by(root)
        except (InvalidSignature, ValueError, TypeError):
            continue
        return root
    raise _refused("the root of the active certificate authority is not among the trusted ones")


def _public_key(key: NewKey) -> AuthorityPublicKey:
    return authority_public_key(load_der_public_key(key.public_key_der))


def _new_id(role: str, serial: int) -> str:
    """The end of the serial number, as in the subject, so that people find one by the other."""
    return f"{role}-{serial & (2**64 - 1):016x}"


def _new_serial() -> int:
    return serial_number(secrets.token_bytes(RANDOM_SERIAL_BYTES))
