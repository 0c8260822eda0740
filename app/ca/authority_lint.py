"""What a certificate of an authority must look like (RFC 5280 §4.2, X509-SVID §3-§4).

Two strengths: `lint_authority` is for what we make ourselves and tolerates nothing. `examine_chain` is for any chain
that somebody wants us to issue under: an *error* is what verifiers of the mesh would refuse, so such a chain is not
used; a *warning* is a lack that one can live with, and says what living with it costs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from app.ca.lint import key_identifier
from app.ca.signing import SignatureScheme
from app.errors import AppError, ErrorCode
from app.identity.spiffe import SCHEME, TrustDomain

_ONLY_EXTENSIONS = {
    x509.BasicConstraints: True,  # by class: whether it must be critical
    x509.KeyUsage: True,
    x509.SubjectKeyIdentifier: False,
    x509.AuthorityKeyIdentifier: False,
    x509.SubjectAlternativeName: False,  # the subject is not empty (RFC 5280 §4.1.2.6)
}
# Which critical extensions every verifier of a mesh knows; with another one in it a certificate is refused.
_KNOWN_CRITICAL = (
    x509.BasicConstraints,
    x509.KeyUsage,
    x509.ExtendedKeyUsage,
    x509.SubjectAlternativeName,
    x509.NameConstraints,
)
_BOTH_DIRECTIONS = frozenset({ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH})
_BROKEN_HASHES = (hashes.MD5, hashes.SHA1)


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


def authority_key_id(certificate: x509.Certificate) -> bytes:
    """By what its children name an authority's key.

    Its subject key identifier; where it has none, the value that method 1 of RFC 5280 §4.2.1.2 gives.
    """
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        return key_identifier(public_key_der(certificate))


def public_key_der(certificate: x509.Certificate) -> bytes:
    """A certificate's SubjectPublicKeyInfo."""
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@dataclass(frozen=True, slots=True)
class ChainFindings:
    """What is wrong with a chain of authorities, in sentences: what forbids its use, and what using it costs."""

    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def check_chain(chain: Sequence[x509.Certificate], trust_domain: TrustDomain | None = None) -> None:
    """Check a chain of authorities, the issuing one first, the root last.

    Raises:
        AppError: `INVALID`, naming what a verifier would refuse.
    """
    if errors := examine_chain(chain, trust_domain).errors:
        raise AppError(ErrorCode.INVALID, f"not a usable certificate authority: {errors[0]}")


def check_parent(certificate: x509.Certificate, trust_domain: TrustDomain) -> None:
    """Check that an authority may have another one below it.

    Raises:
        AppError: `INVALID`, naming what a verifier would refuse.
    """
    errors, _ = _examine(certificate, trust_domain, below=1)
    if errors:
        raise AppError(ErrorCode.INVALID, f"it cannot stand above an issuing authority: it {errors[0]}")


def examine_chain(chain: Sequence[x509.Certificate], trust_domain: TrustDomain | None = None) -> ChainFindings:
    """Everything that speaks against issuing under this chain, the issuing authority first, the root last.

    With a `trust_domain`, an authority that names another one is an error (X509-SVID §3.1).
    """
    if not chain:
        return ChainFindings(errors=("the chain is empty",))
    errors, warnings = list(_links(chain)), list[str]()
    for depth, certificate in enumerate(chain):
        who = "the root" if certificate is chain[-1] else "the issuing authority" if not depth else "an intermediate"
        found_errors, found_warnings = _examine(certificate, trust_domain, below=depth)
        errors += [f"{who} {reason}" for reason in found_errors]
        warnings += [f"{who} {reason}" for reason in found_warnings]
    return ChainFindings(errors=tuple(errors), warnings=tuple(dict.fromkeys(warnings)))


def _examine(
    certificate: x509.Certificate, trust_domain: TrustDomain | None, *, below: int
) -> tuple[list[str], list[str]]:
    """Errors and warnings of one certificate with `below` authorities below it, without their subject."""
    try:
        found = {type(extension.value): extension for extension in certificate.extensions}
        return list(_errors(certificate, found, trust_domain, below=below)), list(_warnings(found, issues=below == 0))
    except (x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError):
        return ["has extensions that cannot be read, or one of them twice"], []


def _links(chain: Sequence[x509.Certificate]) -> Iterator[str]:
    for child, parent in zip(chain, [*chain[1:], chain[-1]], strict=True):
        try:
            child.verify_directly_issued_by(parent)
        except (InvalidSignature, ValueError, TypeError):
            yield "a certificate in the chain is not issued by the next, or the last not by itself"
            return


_Extensions = dict[type[x509.ExtensionType], x509.Extension[x509.ExtensionType]]


def _errors(
    certificate: x509.Certificate, found: _Extensions, trust_domain: TrustDomain | None, *, below: int
) -> Iterator[str]:
    """What a verifier would refuse."""
    if certificate.version is not x509.Version.v3:
        yield "is not an X.509 version 3 certificate"
    if not len(certificate.subject):
        yield "has an empty subject"
    constraints, usage = found.get(x509.BasicConstraints), found.get(x509.KeyUsage)
    if constraints is None or usage is None:
        yield "needs basic constraints and key usage"
        return
    assert isinstance(constraints.value, x509.BasicConstraints)
    assert isinstance(usage.value, x509.KeyUsage)
    if not constraints.critical:
        yield "has basic constraints that are not critical"
    if not constraints.value.ca or not usage.value.key_cert_sign:
        yield "may not sign certificates"
    if constraints.value.path_length is not None and constraints.value.path_length < below:
        yield "has a path length that does not allow the authorities below it"
    yield from _purpose_errors(found, trust_domain)
    if isinstance(certificate.signature_hash_algorithm, _BROKEN_HASHES):
        yield f"is signed with {certificate.signature_hash_algorithm.name}, which verifiers no longer accept"
    try:
        SignatureScheme.of(certificate.public_key())
    except (AppError, ValueError) as error:
        yield f"has a key that is not usable: {error.detail if isinstance(error, AppError) else 'it is unknown'}"


def _purpose_errors(found: _Extensions, trust_domain: TrustDomain | None) -> Iterator[str]:
    purposes, names = found.get(x509.ExtendedKeyUsage), found.get(x509.SubjectAlternativeName)
    if purposes is not None:
        assert isinstance(purposes.value, x509.ExtendedKeyUsage)
        if not _BOTH_DIRECTIONS.issubset(purposes.value):
            yield "is limited to purposes other than TLS servers and clients"
    if names is not None and trust_domain is not None:
        assert isinstance(names.value, x509.SubjectAlternativeName)
        for uri in names.value.get_values_for_type(x509.UniformResourceIdentifier):
            if uri.startswith(SCHEME) and uri != f"{SCHEME}{trust_domain}":
                yield f"is of another trust domain: {uri[:300]!r}"
    for kind, extension in found.items():
        if extension.critical and not issubclass(kind, _KNOWN_CRITICAL):
            yield f"has the critical extension {extension.oid.dotted_string}, which not every verifier knows"


def _warnings(found: _Extensions, *, issues: bool) -> Iterator[str]:
    """What one can live with, and its cost."""
    usage = found.get(x509.KeyUsage)
    if issues and usage is not None and isinstance(usage.value, x509.KeyUsage) and not usage.value.crl_sign:
        yield (
            "may not sign revocation lists (no cRLSign): there is no CRL for what it issues, so a quarantined "
            "certificate is refused by ztunnel only once it has expired"
        )
    if usage is not None and not usage.critical:
        yield "has a key usage that is not critical: a verifier that does not know it would let the key do anything"
    if x509.SubjectKeyIdentifier not in found:
        yield (
            "has no subject key identifier: verifiers find it by name alone, so a renewal under the same name and "
            "another key cannot be told apart"
        )
    if x509.NameConstraints in found:
        yield (
            "has name constraints: rustls, and so ztunnel, refuses every certificate below it unless they are for "
            "other kinds of names than URIs; try one workload before you go on"
        )
