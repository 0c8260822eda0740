"""The shapes of a certificate in DER (RFC 5280 §4.1), for reading what a builder wrote with other eyes.

Declared, not parsed by hand: `cryptography.hazmat.asn1` decodes strictly, so whatever is not DER (an encoded
default, a long length, trailing bytes) does not decode at all. Names and keys stay raw, because they are
compared byte for byte and never interpreted here.
"""

from __future__ import annotations

from typing import Annotated

from cryptography import x509
from cryptography.hazmat import asn1


@asn1.sequence
class AlgorithmIdentifier:
    """The algorithm of a signature; ECDSA has no parameters, RSA has NULL."""

    algorithm: x509.ObjectIdentifier
    parameters: asn1.Null | None


@asn1.sequence
class Validity:
    """From the first to the last second, both included (RFC 5280 §4.1.2.5)."""

    not_before: asn1.UTCTime | asn1.GeneralizedTime
    not_after: asn1.UTCTime | asn1.GeneralizedTime


@asn1.sequence
class SubjectPublicKeyInfo:
    """A public key; the algorithm stays raw."""

    algorithm: asn1.TLV
    subject_public_key: asn1.BitString


@asn1.sequence
class Extension:
    """One extension, its value undecoded."""

    oid: x509.ObjectIdentifier
    critical: Annotated[bool, asn1.Default(False)]
    value: bytes


@asn1.sequence
class TbsCertificate:
    """What is signed."""

    version: Annotated[int, asn1.Explicit(0), asn1.Default(0)]
    serial_number: int
    signature: AlgorithmIdentifier
    issuer: asn1.TLV
    validity: Validity
    subject: asn1.TLV
    subject_public_key_info: asn1.TLV
    issuer_unique_id: Annotated[asn1.BitString | None, asn1.Implicit(1)]
    subject_unique_id: Annotated[asn1.BitString | None, asn1.Implicit(2)]
    extensions: Annotated[list[Extension] | None, asn1.Explicit(3)]


@asn1.sequence
class Certificate:
    """A whole certificate."""

    tbs_certificate: TbsCertificate
    signature_algorithm: AlgorithmIdentifier
    signature: asn1.BitString


@asn1.sequence
class SignedBytes:
    """A whole certificate around bytes that are not looked into."""

    tbs_certificate: asn1.TLV
    signature_algorithm: AlgorithmIdentifier
    signature: asn1.BitString


@asn1.sequence
class AuthorityKeyIdentifier:
    """The key-identifier form of AuthorityKeyIdentifier, the only one we write (RFC 5280 §4.2.1.1)."""

    key_identifier: Annotated[bytes, asn1.Implicit(0)]


@asn1.sequence
class UriNames:
    """GeneralNames of exactly one URI (RFC 5280 §4.2.1.6)."""

    uri: Annotated[asn1.IA5String, asn1.Implicit(6)]


@asn1.sequence
class RevokedCertificate:
    """One entry of a certificate list."""

    serial_number: int
    revocation_date: asn1.UTCTime | asn1.GeneralizedTime
    extensions: list[Extension] | None


@asn1.sequence
class TbsCertificateList:
    """What is signed of a certificate list of version 2 (RFC 5280 §5.1)."""

    version: int
    signature: AlgorithmIdentifier
    issuer: asn1.TLV
    this_update: asn1.UTCTime | asn1.GeneralizedTime
    next_update: asn1.UTCTime | asn1.GeneralizedTime
    revoked_certificates: list[RevokedCertificate] | None
    extensions: Annotated[list[Extension] | None, asn1.Explicit(0)]


@asn1.sequence
class CertificateList:
    """A whole certificate list."""

    tbs_cert_list: TbsCertificateList
    signature_algorithm: AlgorithmIdentifier
    signature: asn1.BitString


@asn1.sequence
class RequestAttribute:
    """An attribute of a certificate request; its values stay raw."""

    type: x509.ObjectIdentifier
    values: asn1.SetOf[asn1.TLV]


@asn1.sequence
class CertificationRequestInfo:
    """What is signed of a certificate request (RFC 2986 §4.1)."""

    version: int
    subject: asn1.TLV
    subject_public_key_info: asn1.TLV
    attributes: Annotated[asn1.SetOf[RequestAttribute], asn1.Implicit(0)]


def encode_certificate(
    tbs: bytes, algorithm: x509.ObjectIdentifier, signature: bytes, *, null_parameters: bool
) -> bytes:
    """The certificate around a to-be-signed one, which goes into it as it is.

    Raises:
        ValueError: when `tbs` is not one DER value.
    """
    return asn1.encode_der(
        SignedBytes(
            tbs_certificate=asn1.decode_der(asn1.TLV, tbs),
            signature_algorithm=AlgorithmIdentifier(
                algorithm=algorithm, parameters=asn1.Null() if null_parameters else None
            ),
            signature=asn1.BitString(signature, 0),
        )
    )
