"""What the key of an authority may sign, decided from nothing but the bytes and the authority's own certificate.

The keeper of the keys asks these questions before each signature, for itself: it trusts no builder and no lint that
ran somewhere else. The bytes are decoded as strict DER, so what was understood here is what every verifier will
read; everything that a certificate of ours always says is fixed, and what varies (identity, key, validity, serial) is
read out and bounded. Every function gives its findings; empty is good.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptography.x509.oid import ExtensionOID

from app.ca import der
from app.ca.authority_issuance import ISSUING_PATH_LENGTH, ROOT_PATH_LENGTH
from app.ca.authority_lint import authority_key_id, lint_authority
from app.ca.key_policy import RSA_SIZES, key_hash
from app.ca.lint import MAX_LEAF_BYTES, Expected, is_algorithm, lint_decoded
from app.ca.serving_names import NO_SERVING_NAMES, ServingNames, may_have_serving_names
from app.ca.signing import STAND_IN_SIGNATURE, SignatureScheme
from app.errors import AppError
from app.identity.spiffe import TrustDomain, WorkloadIdentity

# How far the clocks of the process that builds and of the one that signs may differ; both are of one host.
CLOCK_TOLERANCE = timedelta(minutes=1)
_CRL_V2 = 1
_REQUEST_V1 = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerRules:
    """What is fixed by the authority that signs.

    `not_before` and `not_after` bound what it issues: its own certificate and those above it that are known here.
    `max_lifetime` counts both the first and the last second of a workload certificate.
    """

    trust_domain: TrustDomain
    name: bytes  # the subject, DER
    key_id: bytes
    scheme: SignatureScheme
    not_before: datetime
    not_after: datetime
    max_lifetime: timedelta
    may_sign_certificates: bool
    may_sign_lists: bool
    key_hashes: frozenset[bytes] = field(default_factory=frozenset)

    @classmethod
    def of(
        cls,
        chain: tuple[x509.Certificate, ...],
        trust_domain: TrustDomain,
        *,
        max_lifetime: timedelta,
        keys: frozenset[bytes],
    ) -> Self:
        """The rules of the first certificate of a chain.

        Raises:
            AppError: `INVALID` when its key may not sign for us.
            ValueError: when it cannot be read.
        """
        certificate = chain[0]
        try:
            usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
            constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        except x509.ExtensionNotFound:
            usage, constraints = None, None
        is_authority = usage is not None and usage.key_cert_sign and constraints is not None and constraints.ca
        return cls(
            trust_domain=trust_domain,
            name=certificate.subject.public_bytes(),
            key_id=authority_key_id(certificate),
            scheme=SignatureScheme.of(certificate.public_key()),
            not_before=max(element.not_valid_before_utc for element in chain),
            not_after=min(element.not_valid_after_utc for element in chain),
            max_lifetime=max_lifetime,
            may_sign_certificates=is_authority,
            may_sign_lists=usage is not None and usage.crl_sign,
            key_hashes=keys,
        )


def workload_findings(
    tbs: bytes, rules: IssuerRules, *, authority_keys: AbstractSet[bytes], now: datetime
) -> list[str]:
    """What speaks against a workload certificate: it must be exactly one of our profile, and now.

    `authority_keys` are hashes of keys (`app.ca.key_policy.key_hash`) that no workload may have.
    """
    if len(tbs) > MAX_LEAF_BYTES:
        return [f"larger than {MAX_LEAF_BYTES} bytes"]
    try:
        decoded = asn1.decode_der(der.TbsCertificate, tbs)
        if asn1.encode_der(decoded) != tbs:
            return ["not canonical DER"]
        identity, serving_names = _names(decoded)
        key = asn1.encode_der(decoded.subject_public_key_info)
        not_before, not_after = _moment(decoded.validity.not_before), _moment(decoded.validity.not_after)
        expected = Expected(
            identity=identity.spiffe_id,
            public_key_der=key,
            issuer_name=rules.name,
            issuer_key_id=rules.key_id,
            issuer_scheme=rules.scheme,
            serial=decoded.serial_number,
            not_before=not_before,
            not_after=not_after,
            serving_names=serving_names,
        )
        findings = lint_decoded(decoded, expected)
    except ValueError as error:
        return [f"not a to-be-signed certificate in DER: {error}"]
    except AppError as error:
        return [error.detail]
    checks = {
        "the issuer may not sign certificates": rules.may_sign_certificates,
        "the identity is of another trust domain": identity.trust_domain == rules.trust_domain,
        "only certificates of Gatehouse itself name hosts": serving_names == NO_SERVING_NAMES
        or may_have_serving_names(identity),
        "it lives longer than is allowed": not_after - not_before + timedelta(seconds=1) <= rules.max_lifetime,
        "it begins before its issuer": not_before >= rules.not_before,
        "it outlives its issuer": not_after <= rules.not_after,
        "it begins in the future": not_before <= now + CLOCK_TOLERANCE,
        "it has expired": not_after >= now - CLOCK_TOLERANCE,
        "its key is an authority's": key_hash(key) not in authority_keys,
        "its key is of no kind that workloads have": _is_workload_key(key),
    }
    return findings + [finding for finding, holds in checks.items() if not holds]


def authority_findings(
    tbs: bytes, rules: IssuerRules | None, *, trust_domain: TrustDomain, own_key: bytes
) -> list[str]:
    """What speaks against an authority's certificate, of the signing key's own or of a child.

    Without `rules` the key has no certificate yet and may only sign its own root. `own_key` is the signing key's
    SubjectPublicKeyInfo.
    """
    try:
        decoded = asn1.decode_der(der.TbsCertificate, tbs)
        if asn1.encode_der(decoded) != tbs:
            return ["not canonical DER"]
        scheme = SignatureScheme.of(load_der_public_key(own_key))
        certificate = _wrap(decoded, STAND_IN_SIGNATURE)
        is_root = asn1.encode_der(decoded.subject_public_key_info) == own_key
        path_length = ROOT_PATH_LENGTH if is_root else ISSUING_PATH_LENGTH
        findings = lint_authority(certificate, trust_domain, path_length=path_length)
        key_id = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        own_id = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        return [f"not a to-be-signed certificate of an authority: {error}"]
    except AppError as error:
        return [error.detail]
    checks = {"inner signature algorithm": is_algorithm(decoded.signature, scheme)}
    if is_root:
        checks["a root must be issued by itself"] = certificate.subject == certificate.issuer
        checks["a root must name its own key as its issuer's"] = key_id == own_id
    elif rules is None:
        checks["a key without a certificate signs nothing but its own root"] = False
    else:
        checks["the issuer may not sign certificates"] = rules.may_sign_certificates
        checks["issuer differs from the authority's subject"] = certificate.issuer.public_bytes() == rules.name
        checks["the authority key identifier is not the issuer's"] = key_id == rules.key_id
        checks["it outlives its issuer"] = certificate.not_valid_after_utc <= rules.not_after
    return findings + [finding for finding, holds in checks.items() if not holds]


def subject_key(tbs: bytes) -> bytes:
    """The SubjectPublicKeyInfo in a to-be-signed certificate that passed a check here."""
    return asn1.encode_der(asn1.decode_der(der.TbsCertificate, tbs).subject_public_key_info)


def as_certificate(tbs: bytes, signature: bytes) -> x509.Certificate:
    """The certificate around bytes that passed a check here."""
    decoded = asn1.decode_der(der.TbsCertificate, tbs)
    return _wrap(decoded, signature)


def list_findings(tbs: bytes, rules: IssuerRules) -> list[str]:
    """What speaks against a certificate revocation list."""
    try:
        decoded = asn1.decode_der(der.TbsCertificateList, tbs)
        if asn1.encode_der(decoded) != tbs:
            return ["not canonical DER"]
    except ValueError as error:
        return [f"not a to-be-signed certificate list of version 2 in DER: {error}"]
    found = {extension.oid: extension.value for extension in decoded.extensions or []}
    wanted_key = asn1.encode_der(der.AuthorityKeyIdentifier(key_identifier=rules.key_id))
    checks = {
        "the issuer may not sign revocation lists (no cRLSign)": rules.may_sign_lists,
        "version is not v2": decoded.version == _CRL_V2,
        "inner signature algorithm": is_algorithm(decoded.signature, rules.scheme),
        "issuer differs from the authority's subject": asn1.encode_der(decoded.issuer) == rules.name,
        "the next update is not after this one": _moment(decoded.this_update) < _moment(decoded.next_update),
        "an extension is repeated": len(found) == len(decoded.extensions or []),
        "the authority key identifier is not the issuer's": found.get(ExtensionOID.AUTHORITY_KEY_IDENTIFIER)
        == wanted_key,
        "it has no number": ExtensionOID.CRL_NUMBER in found,
    }
    return [finding for finding, holds in checks.items() if not holds]


def request_findings(info: bytes, *, own_key: bytes) -> list[str]:
    """What speaks against a certificate request of an authority: it must be for its own key."""
    try:
        decoded = asn1.decode_der(der.CertificationRequestInfo, info)
        if asn1.encode_der(decoded) != info:
            return ["not canonical DER"]
    except ValueError as error:
        return [f"not the information of a certificate request in DER: {error}"]
    checks = {
        "version is not v1": decoded.version == _REQUEST_V1,
        "it is for another key": asn1.encode_der(decoded.subject_public_key_info) == own_key,
    }
    return [finding for finding, holds in checks.items() if not holds]


def _names(decoded: der.TbsCertificate) -> tuple[WorkloadIdentity, ServingNames]:
    """The one SPIFFE ID, and the host names beside it; the lint then compares them byte for byte."""
    values = [
        extension.value
        for extension in decoded.extensions or []
        if extension.oid == ExtensionOID.SUBJECT_ALTERNATIVE_NAME
    ]
    if len(values) != 1:
        raise ValueError("exactly one extension with subject alternative names is wanted")
    try:
        uri = asn1.decode_der(der.UriNames, values[0]).uri.as_str()
    except ValueError:
        return _names_with_hosts(decoded)
    return WorkloadIdentity.parse(uri), NO_SERVING_NAMES


def _names_with_hosts(decoded: der.TbsCertificate) -> tuple[WorkloadIdentity, ServingNames]:
    certificate = _wrap(decoded, STAND_IN_SIGNATURE)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise ValueError("exactly one URI name is wanted")
    hosts = names.get_values_for_type(x509.DNSName)
    addresses = names.get_values_for_type(x509.IPAddress)
    return WorkloadIdentity.parse(uris[0]), ServingNames.parse([*hosts, *(str(address) for address in addresses)])


def _wrap(decoded: der.TbsCertificate, signature: bytes) -> x509.Certificate:
    """What is to be signed as something that `x509` reads."""
    return x509.load_der_x509_certificate(
        asn1.encode_der(
            der.Certificate(
                tbs_certificate=decoded,
                signature_algorithm=decoded.signature,
                signature=asn1.BitString(signature, 0),
            )
        )
    )


def _moment(time: asn1.UTCTime | asn1.GeneralizedTime) -> datetime:
    return time.as_datetime().astimezone(UTC)


def _is_workload_key(public_key_der: bytes) -> bool:
    try:
        key = load_der_public_key(public_key_der)
    except (ValueError, UnsupportedAlgorithm):
        return False
    match key:
        case ec.EllipticCurvePublicKey(curve=ec.SECP256R1() | ec.SECP384R1()):
            return True
        case rsa.RSAPublicKey():
            return key.key_size in RSA_SIZES
        case _:
            return False
