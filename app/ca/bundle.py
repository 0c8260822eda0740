"""The trust bundle: the roots that a trust domain believes in.

Two bundles are equal when they hold the same roots: the order in which somebody happened to write them is taken
out, so that re-ordering is never mistaken for a rotation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from app.ca.pem import decode_blocks
from app.errors import AppError, ErrorCode
from app.identity.spiffe import TrustDomain

MAX_ROOTS = 64
MAX_BUNDLE_CHARS = 262_144


def _invalid(reason: str) -> AppError:
    return AppError(ErrorCode.INVALID, f"the trust bundle is not acceptable: {reason}")


@dataclass(frozen=True, slots=True)
class TrustBundle:
    """The roots of one trust domain, in a stable order.

    `pem` has all roots one after the other, each ending in a newline: the last element of an answer to ztunnel.
    `fingerprint` is a hash over the roots that does not depend on the order in which they came.
    """

    trust_domain: TrustDomain
    roots: tuple[x509.Certificate, ...]
    pem: str
    fingerprint: str

    @classmethod
    def of(cls, trust_domain: TrustDomain, roots: tuple[x509.Certificate, ...]) -> Self:
        """A bundle of the given roots; duplicates fall together.

        Raises:
            AppError: `INVALID` when there is none, there are too many, or one is not a certificate authority.
        """
        by_der = {root.public_bytes(Encoding.DER): root for root in roots}
        if not by_der:
            raise _invalid("it has no root")
        if len(by_der) > MAX_ROOTS:
            raise _invalid(f"it has more than {MAX_ROOTS} roots")
        if not all(_is_authority(root) for root in by_der.values()):
            raise _invalid("it holds a certificate that is not a certificate authority")
        ordered = tuple(by_der[der] for der in sorted(by_der, key=lambda der: hashlib.sha256(der).digest()))
        pem = _pem(ordered)
        return cls(trust_domain, ordered, pem, _fingerprint(pem))

    @classmethod
    def from_pem(cls, trust_domain: TrustDomain, pem: str) -> Self:
        """Parse a bundle; nothing but `CERTIFICATE` blocks may be in it.

        Raises:
            AppError: `MALFORMED` or `INVALID`.
        """
        if len(pem) > MAX_BUNDLE_CHARS:
            raise _invalid(f"it is longer than {MAX_BUNDLE_CHARS} characters")
        try:
            roots = tuple(
                x509.load_der_x509_certificate(der)
                for der in decode_blocks(pem, "CERTIFICATE", what="the trust bundle")
            )
        except ValueError:
            raise AppError(ErrorCode.MALFORMED, "the trust bundle holds what is not a certificate") from None
        return cls.of(trust_domain, roots)


def fingerprint_of(roots: Mapping[str, x509.Certificate]) -> str:
    """The fingerprint of the bundle that holds these roots, by the SHA-256 of their DER in hexadecimal."""
    return _fingerprint(_pem(roots[digest] for digest in sorted(roots)))


def _pem(ordered: Iterable[x509.Certificate]) -> str:
    return "".join(root.public_bytes(Encoding.PEM).decode("ascii") for root in ordered)


def _fingerprint(pem: str) -> str:
    return hashlib.sha256(pem.encode("ascii")).hexdigest()


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return False
