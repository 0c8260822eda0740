"""The stored authorities of one moment, parsed: which roots are trusted, who signs, what a step is judged by."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from app.authority.authorities.authority_ports import AuthorityRole, AuthorityState, StoredAuthority
from app.authority.authorities.authority_store import Holding
from app.authority.store import Transaction
from app.ca.authority import Authority
from app.ca.bundle import TrustBundle
from app.ca.lifecycle import IN_BUNDLE, Coverage, Fleet, Member, Rules
from app.ca.parent import is_issued_by
from app.ca.pem import decode_blocks
from app.errors import AppError, ErrorCode
from app.identity.spiffe import SCHEME, TrustDomain

ROOT_ROLES = frozenset({AuthorityRole.ROOT.value, AuthorityRole.PEER.value})
_ID_CHARS = 40


def refused(sentence: str) -> AppError:
    """What an operator must mend before it goes on."""
    return AppError(ErrorCode.FAILED_PRECONDITION, sentence)


def certificate_hash(certificate: x509.Certificate) -> str:
    """SHA-256 over a certificate's DER, hexadecimal: how published bundles name their roots."""
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def adopted_id(certificate: x509.Certificate, source: str = "") -> str:
    """The id of an authority that others made: by its certificate, for others may certify one key twice."""
    der = certificate.public_bytes(Encoding.DER)
    return hashlib.sha256(source.encode() + b"\0" + der if source else der).hexdigest()[:_ID_CHARS]


def pem_of(*certificates: x509.Certificate) -> str:
    """Certificates as PEM, one after the other."""
    return "".join(one.public_bytes(Encoding.PEM).decode("ascii") for one in certificates)


def parse_certificates(pem: str, *, what: str) -> tuple[x509.Certificate, ...]:
    """The certificates in a PEM text; none in an empty one.

    Raises:
        AppError: `MALFORMED` when anything else is in it.
    """
    if not pem.strip():
        return ()
    try:
        return tuple(x509.load_der_x509_certificate(der) for der in decode_blocks(pem, "CERTIFICATE", what=what))
    except (ValueError, x509.InvalidVersion):
        raise AppError(ErrorCode.MALFORMED, f"{what} holds what is not a certificate") from None


def is_self_issued(certificate: x509.Certificate) -> bool:
    """Whether a certificate is signed with its own key."""
    return is_issued_by(certificate, certificate)


def spiffe_names(certificate: x509.Certificate) -> list[str]:
    """The SPIFFE IDs that a certificate names."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return []
    return [uri for uri in names.get_values_for_type(x509.UniformResourceIdentifier) if uri.startswith(SCHEME)]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthoritySet:
    """The authorities at one epoch. `certificates` has those that are signed already, by id."""

    trust_domain: TrustDomain
    epoch: int
    rows: tuple[StoredAuthority, ...]
    certificates: Mapping[str, x509.Certificate]

    @classmethod
    def of(cls, trust_domain: TrustDomain, epoch: int, rows: Sequence[StoredAuthority]) -> Self:
        """Parse rows.

        Raises:
            AppError: `FAILED_PRECONDITION` when one is damaged.
        """
        return cls(
            trust_domain=trust_domain,
            epoch=epoch,
            rows=tuple(rows),
            certificates={row.id: _certificate(row) for row in rows if row.certificate_pem},
        )

    @classmethod
    def read(cls, transaction: Transaction, trust_domain: TrustDomain) -> Self:
        """The set as it is stored now."""
        return cls.of(trust_domain, transaction.authorities.epoch(), transaction.authorities.list())

    def find(self, authority_id: str) -> StoredAuthority:
        """One authority; the beginning of an id that only one has is enough.

        Raises:
            AppError: `NOT_FOUND`, `INVALID` when several begin so.
        """
        exact = [row for row in self.rows if row.id == authority_id]
        found = exact or [row for row in self.rows if authority_id and row.id.startswith(authority_id)]
        if not found:
            raise AppError(ErrorCode.NOT_FOUND, "there is no such authority; `gatehouse ca list` shows them")
        if len(found) > 1:
            raise AppError(ErrorCode.INVALID, "several authorities begin so; write more of the id")
        return found[0]

    def active(self) -> StoredAuthority | None:
        """The issuing authority that signs."""
        return next((row for row in self.rows if row.role == "issuing" and row.state == "active"), None)

    def active_id(self) -> str:
        """Its id; empty while nobody signs."""
        active = self.active()
        return active.id if active is not None else ""

    def signed_last(self) -> StoredAuthority | None:
        """Of the issuing authorities that are tainted, the last; its key is still here."""
        tainted = [row for row in self.rows if row.role == "issuing" and row.state == AuthorityState.TAINTED]
        return max(tainted, key=lambda row: row.state_since or row.created_at, default=None)

    def trusted_roots(self) -> tuple[StoredAuthority, ...]:
        """The roots that are in the bundle unless they expired."""
        return tuple(row for row in self.rows if row.role in ROOT_ROLES and AuthorityState(row.state) in IN_BUNDLE)

    def bundle(self, now: datetime) -> TrustBundle:
        """The trust bundle: every trusted root that did not expire.

        When all of them have, they stay: nobody believes in them, but a process that had no bundle could not run, and
        then nobody could make a new root.

        Raises:
            AppError: `INVALID` when there is none, or too many.
        """
        roots = tuple(self.certificates[row.id] for row in self.trusted_roots())
        valid = tuple(root for root in roots if root.not_valid_after_utc > now)
        return TrustBundle.of(self.trust_domain, valid or roots)

    def own_bundle(self, now: datetime) -> TrustBundle | None:
        """The trusted roots of this cluster that did not expire, without those of its peers; None without any."""
        own = (self.certificates[row.id] for row in self.trusted_roots() if row.role == AuthorityRole.ROOT)
        valid = tuple(root for root in own if root.not_valid_after_utc > now)
        return TrustBundle.of(self.trust_domain, valid) if valid else None

    def is_own_root(self, certificate: x509.Certificate) -> bool:
        """Whether it is, or ever was, a root of this cluster."""
        return any(row.role == AuthorityRole.ROOT and self.certificates.get(row.id) == certificate for row in self.rows)

    def chain(self, row: StoredAuthority) -> tuple[x509.Certificate, ...]:
        """An authority's certificate and those above it, the root last; without the root where that is unknown."""
        own = self.certificates.get(row.id)
        if own is None:
            return ()
        root = self.certificates.get(row.root_id) if row.role == AuthorityRole.ISSUING else None
        above = parse_certificates(row.chain_pem, what=f"the chain of the authority {row.id}")
        return (own, *above, *((root,) if root is not None and root != own else ()))

    def authority(self, row: StoredAuthority) -> Authority:
        """What issuing with an authority needs.

        Raises:
            AppError: `INVALID` when its chain does not hold together.
        """
        certificate, *above = self.chain(row)
        return Authority.of(certificate, tuple(above), self.trust_domain, authority_id=row.id)

    def member(self, row: StoredAuthority, needed_ends: Mapping[str, datetime]) -> Member:
        """An authority as its life sees it."""
        chain = self.chain(row)
        since = row.state_since or row.created_at
        # Certificates of the first release do not say who signed them: any authority may have.
        ends = [needed_ends[name] for name in (row.id, "") if name in needed_ends]
        return Member(
            id=row.id,
            role=AuthorityRole(row.role),
            state=AuthorityState(row.state),
            created_at=row.created_at,
            since=since,
            trusted_since=since if row.state == AuthorityState.PREPARED else row.created_at,
            not_before=max((one.not_valid_before_utc for one in chain), default=None),
            not_after=min((one.not_valid_after_utc for one in chain), default=None),
            root_id=row.root_id,
            has_key=bool(row.sealed_key or row.key_ref),
            needed_until=max(ends, default=None) if row.role == AuthorityRole.ISSUING else None,
        )


def read_fleet(transaction: Transaction, known: AuthoritySet, rules: Rules, now: datetime) -> Fleet:
    """Everything that steps are judged by, over one consistent state."""
    rows = transaction.authorities
    ends, holdings, bundles = rows.needed_ends(now), rows.holdings(now, now - rules.propagation), rows.bundles()
    return Fleet(
        members={row.id: known.member(row, ends) for row in known.rows},
        coverage={
            row.id: _coverage(certificate_hash(known.certificates[row.id]), holdings, bundles)
            for row in known.trusted_roots()
        },
        replicas=rows.replicas(),
        epoch=known.epoch,
    )


def bundles_with(root_hash: str, bundles: Mapping[str, frozenset[str]]) -> tuple[str, ...]:
    """The fingerprints of the bundles that contain a root."""
    return tuple(fingerprint for fingerprint, roots in bundles.items() if root_hash in roots)


def _coverage(root_hash: str, holdings: Sequence[Holding], bundles: Mapping[str, frozenset[str]]) -> Coverage:
    having = frozenset(bundles_with(root_hash, bundles))
    missing = [one for one in holdings if one.bundle not in having]
    holders = sum(one.holders for one in holdings)
    return Coverage(
        holders=holders,
        covered=holders - sum(one.holders for one in missing),
        until=max((one.until for one in missing if one.until is not None), default=None),
    )


def _certificate(row: StoredAuthority) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(row.certificate_pem.encode("ascii"))
    except (ValueError, x509.InvalidVersion):
        raise refused(f"the certificate of the authority {row.id} is damaged in the database") from None
