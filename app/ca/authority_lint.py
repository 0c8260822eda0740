"""What a certificate of an authority must look like (RFC 5280 §4.2, X509-SVID §3-§4).

Two strengths: `lint_authority` is for what we make ourselves and tolerates nothing; `check_chain` is for any chain
that somebody wants us to issue under, and refuses only what a verifier would.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from app.errors import AppError, ErrorCode
from app.identity.spiffe import SCHEME, TrustDomain

_ONLY_EXTENSIONS = {
    x509.BasicConstraints: True,  # by class: whether it must be critical
    x509.KeyUsage: True,
    x509.SubjectKeyIdentifier: False,
    x509.AuthorityKeyIdentifier: False,
    x509.SubjectAlternativeName: False,  # the subject is not empty (RFC 5280 §4.2.1.6)
}


def lint_authority(certificate: x509.Certificate, trust_domain: TrustDomain, *, path_length: int) -> list[str]:
    """Every way in which an authority's certificate is not as we make them; empty is good."""
    found = {type(extension.value): extension for extension in certificate.extensions}
    if {kind: extension.critical for kind, extension in found.items()} != _ONLY_EXTENSIONS:
        return ["the extensions are not exactly the expected ones"]
    constraints, usage = found[x509.BasicConstraints].value, found[x509.KeyUsage].value
    names, key_id = found[x509.SubjectAlternativeName].value, found[x509.SubjectKeyIdentifier].value
    public_key = certificate.public_key()
    checks = {
        "version": certificate.version is x509.Version.v3,
        "serial": 128 < certificate.serial_number.bit_length() < 160,
        "basic constraints": constraints == x509.BasicConstraints(ca=True, path_length=path_length),
        "key usage is not exactly keyCertSign and cRLSign": usage == authority_key_usage(),
        "SPIFFE ID": list(names) == [x509.UniformResourceIdentifier(f"{SCHEME}{trust_domain}")],
        "subject key identifier": key_id == x509.SubjectKeyIdentifier.from_public_key(public_key),
        "subject is empty": len(certificate.subject) > 0,
        "validity is empty": certificate.not_valid_before_utc < certificate.not_valid_after_utc,
    }
    return [finding for finding, holds in checks.items() if not holds]


def authority_key_usage() -> x509.KeyUsage:
    """Signs certificates and revocation lists: ztunnel heeds a CRL only from an issuer that may sign one."""
    return x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )


def check_chain(chain: Sequence[x509.Certificate]) -> None:
    """Check a chain of authorities, the issuing one first, the root last.

    Raises:
        AppError: `INVALID`, naming what a verifier would refuse.
    """
    if not chain:
        raise _invalid("the chain is empty")
    for depth, certificate in enumerate(chain):
        _check_authority(certificate, below=depth)
    for child, parent in zip(chain, [*chain[1:], chain[-1]], strict=True):
        try:
            child.verify_directly_issued_by(parent)
        except (InvalidSignature, ValueError, TypeError):
            raise _invalid("a certificate in the chain is not issued by the next, or the last not by itself") from None


def _check_authority(certificate: x509.Certificate, *, below: int) -> None:
    try:
        extensions = certificate.extensions
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
        extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        raise _invalid("it needs basic constraints, key usage and a subject key identifier") from None
    if not constraints.ca or not usage.key_cert_sign:
        raise _invalid("it may not sign certificates")
    if constraints.path_length is not None and constraints.path_length < below:
        raise _invalid("its path length does not allow the authorities below it")
    if not len(certificate.subject):
        raise _invalid("its subject is empty")


def _invalid(reason: str) -> AppError:
    return AppError(ErrorCode.INVALID, f"not a usable certificate authority: {reason}")
