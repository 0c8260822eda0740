"""Checks what a parent gave for a CSR, before anything relies on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from app.ca.parent import check_parent_chain, find_path, is_self_signed
from app.ca.pem import CSR_LABELS, decode_blocks, decode_one_block
from app.errors import AppError, ErrorCode
from app.identity.spiffe import TrustDomain

_MAX_CHARS = 262_144
_MAX_CERTIFICATES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedChain:
    """The certificate for a CSR, what is between it and its root (nearest first), and the root."""

    certificate: x509.Certificate
    between: tuple[x509.Certificate, ...]
    root: x509.Certificate


def read_signed(
    csr_pem: str, answer_pem: str, roots_pem: str, *, trust_domain: TrustDomain, now: datetime
) -> SignedChain:
    """Find the certificate of the CSR's key in an answer, and its way to a root.

    `answer_pem` may hold the certificates in any order, also more than are needed; `roots_pem` holds the roots that
    count, or is empty when the answer brings its own.

    Raises:
        AppError: `INVALID`, saying what is wrong with the answer.
    """
    wanted = x509.load_der_x509_csr(decode_one_block(csr_pem, CSR_LABELS, what="the CSR")).public_key()
    pool, roots = _certificates(answer_pem, "the answer"), _certificates(roots_pem, "the roots")
    own = [one for one in pool if _key(one) == wanted.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)]
    if not own:
        raise _invalid("no certificate in it has the key of the CSR")
    newest = max(own, key=lambda one: one.not_valid_before_utc)
    if is_self_signed(newest):
        raise _invalid("the certificate is signed by its own key, not by the parent")
    path = find_path(newest, [one for one in (*roots, *pool) if one not in own], roots)
    if path is None:
        raise _invalid("its chain does not reach a root; name the root if the parent does not send it")
    if roots and path[-1] not in roots:
        raise _invalid("its chain leads to another root than the named ones")
    check_parent_chain(path, trust_domain, now)
    return SignedChain(certificate=newest, between=tuple(path[1:-1]), root=path[-1])


def _certificates(pem: str, what: str) -> Sequence[x509.Certificate]:
    if not pem.strip():
        return []
    if len(pem) > _MAX_CHARS:
        raise _invalid(f"{what} is longer than {_MAX_CHARS} characters")
    try:
        blocks = decode_blocks(pem, "CERTIFICATE", what=what)
        if len(blocks) > _MAX_CERTIFICATES:
            raise _invalid(f"{what} holds more than {_MAX_CERTIFICATES} certificates")
        return list(dict.fromkeys(x509.load_der_x509_certificate(block) for block in blocks))
    except (ValueError, x509.InvalidVersion):
        raise _invalid(f"{what} holds what is not a certificate") from None


def _key(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _invalid(reason: str) -> AppError:
    return AppError(ErrorCode.INVALID, f"what the parent gave cannot be used: {reason}")
