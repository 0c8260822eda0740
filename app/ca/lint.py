"""Reads a certificate with other eyes than the ones that wrote it, and says what is wrong.

The lint of a workload certificate is not a list of known mistakes but the opposite: the whole certificate is
decoded (`app.ca.der`, strict DER) and every part must be exactly what was meant. Whatever is not expected is a
finding, and any finding stops the certificate before the authority's key has seen it. Rules: RFC 5280 §4,
X509-SVID §2-§4, RFC 5480 §3 (no key encipherment with an EC key).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.x509.oid import ExtensionOID

from app.ca import der
from app.ca.serving_names import NO_SERVING_NAMES, ServingNames
from app.ca.signing import SignatureScheme
from app.identity.spiffe import SpiffeId

MAX_LEAF_BYTES = 4_096
_MAX_SERIAL_OCTETS = 20
_MIN_SERIAL_BITS = 128
_X509_V3 = 2
_EMPTY_SEQUENCE = b"\x30\x00"

# The extensions that are the same in every workload certificate, by object identifier: (critical, DER value).
_FIXED_EXTENSIONS = {
    ExtensionOID.KEY_USAGE: (True, bytes.fromhex("03020780")),  # digitalSignature and nothing else
    ExtensionOID.EXTENDED_KEY_USAGE: (False, bytes.fromhex("301406082b0601050507030106082b06010505070302")),
    ExtensionOID.BASIC_CONSTRAINTS: (True, _EMPTY_SEQUENCE),  # CA:FALSE is the default, and defaults are not encoded
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a workload certificate must say; everything else about it is fixed."""

    identity: SpiffeId
    public_key_der: bytes
    issuer_name: bytes  # the issuer's subject, DER
    issuer_key_id: bytes
    issuer_scheme: SignatureScheme
    serial: int
    not_before: datetime
    not_after: datetime
    serving_names: ServingNames = NO_SERVING_NAMES


def lint_workload(certificate: bytes, expected: Expected) -> list[str]:
    """Every way in which the certificate is not the expected one; empty is good. Never raises."""
    if len(certificate) > MAX_LEAF_BYTES:
        return [f"larger than {MAX_LEAF_BYTES} bytes"]
    try:
        decoded = asn1.decode_der(der.Certificate, certificate)
        if asn1.encode_der(decoded) != certificate:
            return ["not canonical DER"]
        return lint_decoded(decoded.tbs_certificate, expected) + _signature_findings(decoded, expected)
    except ValueError as error:
        return [f"not a certificate in DER: {error}"]


def lint_decoded(tbs: der.TbsCertificate, expected: Expected) -> list[str]:
    """The same for what is signed, decoded from DER that is known to be canonical.

    Raises:
        ValueError: when a key or a name in it cannot be read.
    """
    checks = {
        "version is not v3": tbs.version == _X509_V3,
        "serial is not the expected one": tbs.serial_number == expected.serial,
        "serial is not positive, unpredictable and of at most 20 octets": _serial_is_good(tbs.serial_number),
        "inner signature algorithm": is_algorithm(tbs.signature, expected.issuer_scheme),
        "issuer differs from the authority's subject": asn1.encode_der(tbs.issuer) == expected.issuer_name,
        "subject is not empty": asn1.encode_der(tbs.subject) == _EMPTY_SEQUENCE,
        "public key is not the CSR's": asn1.encode_der(tbs.subject_public_key_info) == expected.public_key_der,
        "unique identifiers": tbs.issuer_unique_id is None and tbs.subject_unique_id is None,
        "first second is not the expected one": is_time(tbs.validity.not_before, expected.not_before),
        "last second is not the expected one": is_time(tbs.validity.not_after, expected.not_after),
        "validity is empty": expected.not_before < expected.not_after,
    }
    return [finding for finding, holds in checks.items() if not holds] + _extension_findings(
        tbs.extensions or [], expected
    )


def _signature_findings(decoded: der.Certificate, expected: Expected) -> list[str]:
    checks = {
        "outer signature algorithm": is_algorithm(decoded.signature_algorithm, expected.issuer_scheme),
        "signature has padding bits": decoded.signature.padding_bits() == 0,
    }
    return [finding for finding, holds in checks.items() if not holds]


def _extension_findings(extensions: list[der.Extension], expected: Expected) -> list[str]:
    wanted = {
        **_FIXED_EXTENSIONS,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME: (
            True,  # because the subject is empty (RFC 5280 §4.1.2.6)
            _names(expected),
        ),
        ExtensionOID.SUBJECT_KEY_IDENTIFIER: (False, asn1.encode_der(key_identifier(expected.public_key_der))),
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER: (
            False,
            asn1.encode_der(der.AuthorityKeyIdentifier(key_identifier=expected.issuer_key_id)),
        ),
    }
    found = {extension.oid: (extension.critical, extension.value) for extension in extensions}
    findings = [] if len(found) == len(extensions) else ["an extension is repeated"]
    differing = (oid for oid in {**wanted, **found} if found.get(oid) != wanted.get(oid))
    return findings + [f"extension {oid.dotted_string} is not as expected" for oid in differing]


def _names(expected: Expected) -> bytes:
    if expected.serving_names == NO_SERVING_NAMES:
        return asn1.encode_der(der.UriNames(uri=asn1.IA5String(str(expected.identity))))
    uri = x509.UniformResourceIdentifier(str(expected.identity))
    return x509.SubjectAlternativeName([uri, *expected.serving_names.general_names()]).public_bytes()


def key_identifier(public_key_der: bytes) -> bytes:
    """The subject key identifier by method 1 of RFC 5280 §4.2.1.2: SHA-1 over the key's bits."""
    info = asn1.decode_der(der.SubjectPublicKeyInfo, public_key_der)
    # SHA-1 is an identifier here, not a promise: RFC 5280 names it and every verifier expects it.
    return hashlib.sha1(info.subject_public_key.as_bytes(), usedforsecurity=False).digest()


def is_algorithm(found: der.AlgorithmIdentifier, wanted: SignatureScheme) -> bool:
    """Whether an algorithm identifier is that of the scheme, its parameters included."""
    return found.algorithm == wanted.oid and (found.parameters is not None) == wanted.has_null_parameters


def _serial_is_good(serial: int) -> bool:
    return serial > 0 and _MIN_SERIAL_BITS < serial.bit_length() < 8 * _MAX_SERIAL_OCTETS


def is_time(found: asn1.UTCTime | asn1.GeneralizedTime, wanted: datetime) -> bool:
    """Whether a decoded time is exactly the wanted one, in the form that it must have."""
    # UTCTime through 2049, GeneralizedTime from 2050 (RFC 5280 §4.1.2.5).
    form = asn1.UTCTime if wanted.year < 2050 else asn1.GeneralizedTime
    return type(found) is form and found.as_datetime().astimezone(UTC) == wanted
