"""What authorities need from the outside: somebody who keeps their keys, a parent, other clusters' roots.

The keys of authorities live behind `KeyKeeper` (a process of its own) and nowhere else: what comes out of it are
signatures, public keys, and secrets sealed for rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from cryptography import x509

from app.authority.ports import Signer
from app.ca.bundle import TrustBundle
from app.ca.lifecycle import AuthorityRole, AuthorityState

__all__ = ["AuthorityRole", "AuthorityState"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAuthority:
    """An authority as it rests: certificates in the clear, its key sealed or somewhere else.

    `certificate_pem` is empty while its CSR is out to be signed. `chain_pem` holds the certificates between it and
    its root, nearest first, without the root; `root_id` names the row of that root. The key is `sealed_key`, or what
    `key_ref` names (`file:PATH`, `pkcs11:LABEL`), or nowhere here (an offline root, a peer).
    `source` says who brought it: `own`, `files`, `import`, `upstream`, `peer:NAME`. `automatic`: it was prepared
    without being asked, and activates by itself. `epoch` counts the changes of the row.
    """

    id: str
    role: str
    state: str
    certificate_pem: str
    sealed_key: bytes = field(repr=False)
    created_at: datetime
    epoch: int = 0
    chain_pem: str = ""
    root_id: str = ""
    key_ref: str = ""
    source: str = "own"
    state_since: datetime | None = None
    csr_pem: str = ""
    automatic: bool = False


class AuthorityStore(Protocol):
    """Where authorities and other sealed keys rest."""

    async def list_authorities(self) -> Sequence[StoredAuthority]:
        """Every authority, oldest first."""
        ...

    async def get_sealed_key(self, name: str) -> bytes | None:
        """A sealed key by name (`token-issuer`, `snapshot`, `ledger`), or None."""
        ...

    async def put_sealed_key(self, name: str, sealed: bytes) -> bytes:
        """Store a sealed key unless the name is taken; returns what is stored now."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """A key that was just made: its public half (SubjectPublicKeyInfo, DER) and its private half, sealed.

    A key that was made in a token has no sealed form but a reference, for `StoredAuthority.key_ref`.
    """

    public_key_der: bytes
    sealed: bytes = field(repr=False)
    key_ref: str = ""


class KeyKeeper(Protocol):
    """Keeps the private keys of authorities, and checks what they are asked to sign.

    Every method raises `AppError`: `UNAVAILABLE` when the keeper cannot be reached in time, `FAILED_PRECONDITION`
    when a key does not open, is not there or does not belong to its certificate, `INTERNAL` when what is to be
    signed fails the keeper's own checks.
    """

    async def generate_key(self, authority_id: str) -> NewKey:
        """Make a P-256 key for an authority that is about to exist, and keep it open for signing."""
        ...

    async def open_authority(self, authority: StoredAuthority, *, max_lifetime: timedelta) -> None:
        """Make the key of a stored authority usable, after it proved to belong to the certificate.

        Without a certificate (its CSR is out) the key can sign that CSR. Workload certificates that live longer than
        `max_lifetime`, first and last second included, are not signed. May be repeated, for example with a new
        certificate.
        """
        ...

    async def close_authority(self, authority_id: str) -> None:
        """Forget a key."""
        ...

    async def probe(self, authority_id: str) -> None:
        """Sign and verify something that is no certificate: whether the key is there and works."""
        ...

    def signer(self, authority_id: str) -> Signer:
        """Signs workload certificates with an open authority's key."""
        ...

    async def sign_authority(self, authority_id: str, tbs: bytes) -> bytes:
        """A signature over an authority's own root certificate or that of a child authority.

        The child's key must be open here too: generate or open it first.
        """
        ...

    async def sign_csr(self, authority_id: str, request_info: bytes) -> bytes:
        """A signature over a CertificationRequestInfo (RFC 2986) for the authority's own key."""
        ...

    async def sign_crl(self, authority_id: str, tbs: bytes) -> bytes:
        """A signature over a to-be-signed certificate list."""
        ...

    async def seal(self, name: str, secret: bytes) -> bytes:
        """Seal a small secret of another kind for rest; `name` never begins with `authority:`."""
        ...

    async def unseal(self, name: str, sealed: bytes) -> bytes:
        """Open what `seal` made; keys of authorities are not given out."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedIntermediate:
    """What a parent gives for a CSR. `chain_pem`: what is between it and the root, nearest first, without the root."""

    certificate_pem: str
    chain_pem: str
    root_pem: str


class UpstreamAuthority(Protocol):
    """A parent that signs our issuing authorities online."""

    async def sign_intermediate(self, csr_pem: str, *, lifetime: timedelta) -> SignedIntermediate:
        """Have an issuing certificate signed.

        Raises:
            AppError: `UNAVAILABLE` when the parent cannot be reached or refuses for now, `FAILED_PRECONDITION` when
                it refuses for good (the sentence says what to change there).
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedBundle:
    """The trust bundle as it is given out; `sequence` grows with every change of its roots.

    `own` are the roots of this cluster alone (None: none is valid), for its peers: were they told their own roots back,
    none could ever go.
    """

    bundle: TrustBundle
    own: TrustBundle | None
    sequence: int
    since: datetime


class BundleSource(Protocol):
    """Where the trust bundle is read from."""

    def current(self) -> PublishedBundle:
        """The bundle of now."""
        ...


class PeerRoots(Protocol):
    """Takes the roots of peer clusters into the bundle, step by step."""

    def is_own_root(self, certificate: x509.Certificate) -> bool:
        """Whether it is, or ever was, a root of this cluster: such a one is never a peer's."""
        ...

    async def adopt(self, peer: str, roots: TrustBundle, *, actor: str) -> bool:
        """Make these the roots of a peer: new ones are staged into the bundle, missing ones begin to retire.

        Whether anything changed. Roots of another trust domain are refused.

        Raises:
            AppError: `INVALID` for a foreign trust domain, `UNAVAILABLE` when it cannot be stored.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentFiles:
    """An issuing authority in the user's own files, read and checked; only the path of its key is known here.

    `chain_pem`: between it and its root, nearest first, without the root; `roots_pem`: every root to trust.
    """

    certificate_pem: str
    chain_pem: str
    roots_pem: str
    key_path: str


class ParentSink(Protocol):
    """Takes what the watched files of a parent say."""

    async def adopt_parent(self, files: ParentFiles, *, actor: str) -> bool:
        """Make these files the issuing authority: at once where that is safe, else staged. Whether anything changed.

        Raises:
            AppError: `INVALID` when certificate, chain, roots and key do not belong together,
                `FAILED_PRECONDITION` when the step would cut off workloads (the sentence says what to do first).
        """
        ...
