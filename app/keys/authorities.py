"""Opens the authorities at start: unseals what is stored, or makes the first root and issuing authority.

Making new ones is only done when the caller says that this is a first start: an installation that has lost its
database or its passphrase must not come up with a new root in silence, for every workload would stop trusting it.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from app.authority.authority_ports import AuthorityStore, StoredAuthority
from app.authority.ports import Signer
from app.ca.authority import Authority, authority_id, create_issuing, create_root
from app.ca.bundle import TrustBundle
from app.ca.issuance import RANDOM_SERIAL_BYTES, serial_number
from app.ca.signing import signing_hash
from app.errors import AppError, ErrorCode
from app.identity.spiffe import TrustDomain
from app.keys.local_signer import LocalSigner
from app.keys.private_key import decode_key, encode_key, generate_key
from app.keys.sealing import Sealer
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
    sealer: Sealer,
    *,
    trust_domain: TrustDomain,
    now: datetime,
    create: bool,
) -> OpenAuthorities:
    """Open the stored authorities; with `create`, make them when there are none.

    Raises:
        AppError: `FAILED_PRECONDITION` when there are none and none may be made, a key does not unseal or does not
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
        made, entry = make_authorities(sealer, trust_domain=trust_domain, now=now)
        try:
            await store.add_authorities(made, entry)
            created = True
        except AppError as error:
            if error.code is not ErrorCode.CONFLICT:
                raise
        stored = await store.list_authorities()  # another replica may have been faster: theirs count then
    return _open(stored, sealer, trust_domain, now, created=created)


def make_authorities(
    sealer: Sealer, *, trust_domain: TrustDomain, now: datetime
) -> tuple[tuple[StoredAuthority, ...], LedgerEntry]:
    """A new root and issuing authority, sealed, and the ledger entry that records them. Nothing is stored yet."""
    root_key, issuing_key = generate_key(), generate_key()
    root = create_root(trust_domain, root_key, now=now, serial=_new_serial())
    issuing = create_issuing(
        issuing_key.public_key(), root, root_key, trust_domain=trust_domain, now=now, serial=_new_serial()
    )
    made = tuple(
        StoredAuthority(
            id=authority_id(certificate),
            role=role,
            state=ACTIVE,
            certificate_pem=certificate.public_bytes(Encoding.PEM).decode("ascii"),
            sealed_key=sealer.seal(_key_name(authority_id(certificate)), encode_key(key)),
            created_at=now,
        )
        for role, certificate, key in ((ROOT, root, root_key), (ISSUING, issuing, issuing_key))
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


def _open(
    stored: Sequence[StoredAuthority], sealer: Sealer, trust_domain: TrustDomain, now: datetime, *, created: bool
) -> OpenAuthorities:
    roots = {
        authority.id: _certificate(authority)
        for authority in stored
        if authority.role == ROOT and authority.state in _TRUSTED_STATES
    }
    issuing = [authority for authority in stored if authority.role == ISSUING and authority.state == ACTIVE]
    if not roots or not issuing:
        raise _refused("the database has no active certificate authority; nothing can be issued")
    newest = max(issuing, key=lambda authority: authority.created_at)
    certificate = _certificate(newest)
    active = Authority.of(certificate, (_issuer_of(certificate, tuple(roots.values())),), trust_domain)
    _check_trust_domain(certificate, trust_domain)
    key = decode_key(sealer.unseal(_key_name(newest.id), newest.sealed_key))
    _check_key(key, active)
    valid_roots = tuple(root for root in roots.values() if root.not_valid_after_utc > now)
    return OpenAuthorities(
        active=active,
        signer=LocalSigner(key),
        bundle=TrustBundle.of(trust_domain, valid_roots),
        created=created,
    )


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


def _check_trust_domain(certificate: x509.Certificate, trust_domain: TrustDomain) -> None:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    own = f"spiffe://{trust_domain}"
    if own not in names.get_values_for_type(x509.UniformResourceIdentifier):
        raise _refused(f"the stored certificate authority is not of the trust domain {trust_domain}; set it back")


def _check_key(key: ec.EllipticCurvePrivateKey, authority: Authority) -> None:
    """Sign and verify something that is no certificate: the sealed key must be the certificate's."""
    probe = b"gatehouse key probe"
    algorithm = ec.ECDSA(signing_hash(authority.public_key.curve))
    try:
        authority.public_key.verify(key.sign(probe, algorithm), probe, algorithm)
    except InvalidSignature:
        raise _refused(f"the sealed key of the authority {authority.id} does not belong to its certificate") from None


def _key_name(authority: str) -> str:
    return f"authority:{authority}"


def _new_serial() -> int:
    return serial_number(secrets.token_bytes(RANDOM_SERIAL_BYTES))
