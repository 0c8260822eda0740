"""A workload's certificate with its key and the roots to trust, checked before anybody relies on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509 import verification

from app.errors import AppError, ErrorCode

_MAX_CERTIFICATES = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadSvid:
    """Certificate chain (leaf first, without roots), private key and trust bundle, each as PEM."""

    identity: str
    chain_pem: bytes
    key_pem: bytes = field(repr=False)
    bundle_pem: bytes
    not_before: datetime
    not_after: datetime

    @classmethod
    def accept(
        cls, key: ec.EllipticCurvePrivateKey, cert_chain: Sequence[str], identity: str, *, now: datetime
    ) -> Self:
        """What the authority answered: leaf, intermediates, all roots in the last element.

        Raises:
            AppError: `INVALID` when it is not a valid certificate for this key and identity under its roots.
        """
        if len(cert_chain) < 2:
            raise _unusable("it has no roots")
        key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        chain = "".join(cert_chain[:-1]).encode()
        return cls.parse(key_pem, chain, cert_chain[-1].encode(), identity, now=now)

    @classmethod
    def parse(cls, key_pem: bytes, chain_pem: bytes, bundle_pem: bytes, identity: str, *, now: datetime) -> Self:
        """The same from files.

        Raises:
            AppError: `INVALID` when they do not belong together, to `identity`, or are not valid now.
        """
        leaf, *intermediates = _certificates(chain_pem)
        roots = _certificates(bundle_pem)
        try:
            key = load_pem_private_key(key_pem, None)
        except (ValueError, TypeError):
            raise _unusable("its key cannot be read") from None
        if leaf.public_key() != key.public_key():
            raise _unusable("it is for another key")
        if _identities(leaf) != [identity]:
            raise _unusable(f"it is for {', '.join(_identities(leaf)) or 'nobody'} and not for {identity}")
        try:
            verifier = verification.PolicyBuilder().store(verification.Store(roots)).time(now).build_client_verifier()
            verifier.verify(leaf, intermediates)
        except (verification.VerificationError, ValueError) as error:
            raise _unusable(f"its chain does not verify: {error}") from None
        return cls(
            identity=identity,
            chain_pem=_pem([leaf, *intermediates]),
            key_pem=key_pem,
            bundle_pem=_pem(roots),
            not_before=leaf.not_valid_before_utc,
            not_after=leaf.not_valid_after_utc,
        )

    def renew_at(self, factor: float) -> datetime:
        """The moment at which `factor` of its life has passed."""
        return self.not_before + (self.not_after - self.not_before) * factor


def _certificates(pem: bytes) -> list[x509.Certificate]:
    try:
        found = x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise _unusable("it is not certificates in PEM") from None
    if len(found) > _MAX_CERTIFICATES:
        raise _unusable(f"it has more than {_MAX_CERTIFICATES} certificates")
    return found


def _identities(leaf: x509.Certificate) -> list[str]:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def _pem(certificates: Sequence[x509.Certificate]) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def _unusable(reason: str) -> AppError:
    return AppError(ErrorCode.INVALID, f"the certificate cannot be used: {reason}")
