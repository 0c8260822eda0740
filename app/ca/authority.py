"""An authority that issues: its certificate, the chain above it, and what issuing needs of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from app.ca.authority_lint import authority_key_id, check_chain, public_key_der
from app.ca.key_policy import key_hash
from app.ca.signing import AuthorityPublicKey, SignatureScheme, authority_public_key
from app.identity.spiffe import TrustDomain


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A signing authority that may issue, with everything that issuing needs worked out once.

    `id` is the name under which it is stored; it says nothing. `intermediates` starts with the authority's own
    certificate and ends below the root; it is empty when a root issues itself. `not_before` and `not_after` are the
    bounds within which every element of the chain, root included, is valid. `own_keys` are hashes of the chain's
    public keys, which no workload may present as its own.
    """

    id: str
    trust_domain: TrustDomain
    certificate: x509.Certificate
    intermediates: tuple[x509.Certificate, ...]
    intermediate_pems: tuple[str, ...]
    root: x509.Certificate
    public_key: AuthorityPublicKey
    scheme: SignatureScheme
    name: bytes  # the subject, DER
    key_id: bytes  # the subject key identifier
    not_before: datetime
    not_after: datetime
    own_keys: frozenset[bytes]

    @classmethod
    def of(
        cls,
        certificate: x509.Certificate,
        above: tuple[x509.Certificate, ...],
        trust_domain: TrustDomain,
        *,
        authority_id: str,
    ) -> Self:
        """Build it from its certificate and those above it, nearest first, the root last.

        Raises:
            AppError: `INVALID` when the chain does not hold together, is of another trust domain, or its key cannot
                sign for us.
        """
        chain = (certificate, *above)
        check_chain(chain, trust_domain)
        public_key = authority_public_key(certificate.public_key())
        return cls(
            id=authority_id,
            trust_domain=trust_domain,
            certificate=certificate,
            intermediates=chain[:-1],
            intermediate_pems=tuple(element.public_bytes(Encoding.PEM).decode("ascii") for element in chain[:-1]),
            root=chain[-1],
            public_key=public_key,
            scheme=SignatureScheme.of(public_key),
            name=certificate.subject.public_bytes(),
            key_id=authority_key_id(certificate),
            not_before=max(element.not_valid_before_utc for element in chain),
            not_after=min(element.not_valid_after_utc for element in chain),
            own_keys=frozenset(key_hash(public_key_der(element)) for element in chain),
        )
