"""Certificate signing requests: from PEM text to a value that is safe to build a certificate from.

A CSR is the most hostile input of the certificate authority, and of all it says we use one thing: its public
key. It is bounded before it is parsed, cut out of its PEM in linear time (`app.ca.pem`), its key must pass the
key policy (`app.ca.key_policy`) before anything is computed with it, its self-signature must hold (RFC 2986
§4.2: proof of possession), and whatever it asks for that we never grant is refused rather than ignored, so that
nobody believes to have got it. Its subject is never even looked at: istio-agent sends an empty organisation,
ztunnel nothing, and no certificate of ours has one.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, SignatureAlgorithmOID

from app.ca.key_policy import PublicKey, check_public_key, key_hash
from app.ca.pem import CSR_LABELS, decode_one_block
from app.errors import AppError, ErrorCode
from app.identity.spiffe import SpiffeId
from app.limits import CertificateLimits

_SIGNATURE_ALGORITHMS = frozenset(
    {
        SignatureAlgorithmOID.ECDSA_WITH_SHA256,
        SignatureAlgorithmOID.ECDSA_WITH_SHA384,
        SignatureAlgorithmOID.ECDSA_WITH_SHA512,
        SignatureAlgorithmOID.RSA_WITH_SHA256,
        SignatureAlgorithmOID.RSA_WITH_SHA384,
        SignatureAlgorithmOID.RSA_WITH_SHA512,
    }
)
_EXTENSION_REQUEST = x509.ObjectIdentifier("1.2.840.113549.1.9.14")  # RFC 2985 §5.4.2
_GRANTED_PURPOSES = frozenset({ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH})


@dataclass(frozen=True, slots=True, kw_only=True)
class Csr:
    """A checked request.

    `public_key_der` is the key's SubjectPublicKeyInfo and `key_type` reads `EC-P256`, `EC-P384`, `RSA-2048` ...
    """

    public_key: PublicKey
    public_key_der: bytes
    key_type: str
    uri_sans: tuple[str, ...]


def _malformed(reason: str) -> AppError:
    return AppError(ErrorCode.MALFORMED, f"the CSR is not acceptable: {reason}")


def _invalid(reason: str) -> AppError:
    return AppError(ErrorCode.INVALID, f"the CSR is not acceptable: {reason}")


def parse_csr(pem: str, limits: CertificateLimits) -> Csr:
    """Parse and check one PEM CSR.

    Raises:
        AppError: `MALFORMED` when it is not exactly one PEM PKCS#10 request within the size bound; `INVALID` when
            its signature, its key or what it asks for is not acceptable.
    """
    if len(pem) > limits.max_csr_bytes:
        raise _malformed(f"it is longer than {limits.max_csr_bytes} bytes")
    der = decode_one_block(pem, CSR_LABELS, what="the CSR")
    try:
        request = x509.load_der_x509_csr(der)
    except (ValueError, x509.InvalidVersion):
        raise _malformed("it is not a PKCS#10 request in DER") from None
    public_key, key_type = check_public_key(_public_key(request))
    _check_signature(request)
    return Csr(
        public_key=public_key,
        public_key_der=public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        key_type=key_type,
        uri_sans=_requested_uris(request, limits),
    )


def check_requested_identity(csr: Csr, identity: SpiffeId) -> None:
    """Refuse a CSR that names another identity than the authorised one (naming none is fine).

    istiod ignores what the CSR names; we refuse, because a caller that believes to be somebody else has a bug
    or an intention. The caller of this function may leave it out to get istiod's behaviour.

    Raises:
        AppError: `INVALID` when a URI name of the CSR is not exactly `identity`.
    """
    if any(uri != str(identity) for uri in csr.uri_sans):
        raise AppError(
            ErrorCode.INVALID,
            "the CSR is not acceptable: it names another SPIFFE ID than the one that is authorised",
            diagnosis=f"csr_names: it does not name {identity} alone",
        )


def check_key_not_blocked(csr: Csr, blocked_keys: AbstractSet[bytes]) -> None:
    """Refuse a key that must not be certified: one of an authority, or one that is known to have leaked.

    Args:
        csr: the request.
        blocked_keys: hashes of keys (`app.ca.key_policy.key_hash`).

    Raises:
        AppError: `INVALID` when the CSR's key is among them.
    """
    if key_hash(csr.public_key_der) in blocked_keys:
        raise AppError(
            ErrorCode.INVALID,
            "the CSR is not acceptable: its key must not be used for a workload",
            diagnosis="key_blocked: it is the key of a certificate authority or on the list of blocked keys",
        )


def _public_key(request: x509.CertificateSigningRequest) -> object:
    try:
        return request.public_key()
    except (ValueError, UnsupportedAlgorithm):
        # A point off the curve, explicit curve parameters, an algorithm that nobody uses in TLS.
        raise _invalid("its public key is broken or of an unsupported type") from None


def _check_signature(request: x509.CertificateSigningRequest) -> None:
    if request.signature_algorithm_oid not in _SIGNATURE_ALGORITHMS:
        raise _invalid("it must be signed with ECDSA or RSA PKCS#1 v1.5 and SHA-256, SHA-384 or SHA-512")
    try:
        valid = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm):
        valid = False  # the algorithm does not belong to the key
    if not valid:
        raise _invalid("its signature is not made with its own key")


def _requested_uris(request: x509.CertificateSigningRequest, limits: CertificateLimits) -> tuple[str, ...]:
    """The URI names that it asks for, after refusing everything that is never granted."""
    try:
        attributes = [attribute.oid for attribute in request.attributes]
        extensions = list(request.extensions)
    except (ValueError, TypeError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        raise _malformed("its attributes or extensions cannot be read") from None
    if attributes not in ([], [_EXTENSION_REQUEST]):
        raise _invalid("it has attributes other than one extension request")
    uris: tuple[str, ...] = ()
    for extension in extensions:
        match extension.value:
            case x509.SubjectAlternativeName() as names:
                uris = _uri_names(names, limits)
            case x509.BasicConstraints(ca=False) | x509.SubjectKeyIdentifier():
                pass
            case x509.KeyUsage(key_cert_sign=False, crl_sign=False):
                pass
            case x509.ExtendedKeyUsage() as usage if _GRANTED_PURPOSES.issuperset(usage):
                pass
            case _:
                raise _invalid(f"it asks for what is never granted (extension {extension.oid.dotted_string})")
    return uris


def _uri_names(names: x509.SubjectAlternativeName, limits: CertificateLimits) -> tuple[str, ...]:
    if len(names) > limits.max_sans:
        raise _invalid(f"it asks for more than {limits.max_sans} names")
    uris = tuple(name.value for name in names if isinstance(name, x509.UniformResourceIdentifier))
    if len(uris) != len(names):
        raise _invalid("it asks for names other than URIs")
    return uris
