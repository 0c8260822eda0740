"""Authorities, CSRs and issued certificates for tests, made with the product's own functions and fixed values."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from app.ca.authority import Authority
from app.ca.authority_issuance import (
    ISSUING_LIFETIME,
    ROOT_LIFETIME,
    assemble_authority,
    prepare_issuing,
    prepare_root,
)
from app.ca.bundle import TrustBundle
from app.ca.csr import parse_csr
from app.ca.issuance import IssuedSvid, PreparedSvid, assemble, prepare, serial_number
from app.ca.profile import TtlGrant, WorkloadProfile
from app.ca.serving_names import NO_SERVING_NAMES, ServingNames
from app.ca.signing import AuthorityPrivateKey, AuthorityPublicKey, is_signed_by, sign_bytes
from app.identity.spiffe import SpiffeId, TrustDomain
from app.limits import CertificateLimits

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
TRUST_DOMAIN = TrustDomain("cluster.local")
IDENTITY = SpiffeId.parse("spiffe://cluster.local/ns/shop/sa/cart")
LIMITS = CertificateLimits()
PROFILE = WorkloadProfile.from_limits(LIMITS)


def serial(number: int) -> int:
    """A serial number of the product's shape from a small number."""
    return serial_number(steady_bytes(number))


def steady_bytes(number: int) -> bytes:
    """16 bytes that look random and are always the same."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(number.to_bytes(8))
    return digest.finalize()[:16]


def verified(prepared: PreparedSvid, signature: bytes) -> IssuedSvid:
    """The certificate, whose signature must be its authority's."""
    issued = assemble(prepared, signature)
    assert is_signed_by(prepared.authority.public_key, signature, prepared.tbs)
    return issued


@dataclass(frozen=True, slots=True, kw_only=True)
class Pki:
    """A root, an issuing authority below it, and their keys."""

    root_key: AuthorityPrivateKey
    issuing_key: AuthorityPrivateKey
    root: x509.Certificate
    authority: Authority
    bundle: TrustBundle

    def sign(self, prepared: PreparedSvid) -> bytes:
        """What the signer would answer."""
        return sign_bytes(self.issuing_key, prepared.tbs)

    def issue(
        self,
        csr_pem: str,
        *,
        identity: SpiffeId = IDENTITY,
        ttl_seconds: int = 3600,
        now: datetime = NOW,
        number: int = 7,
        serving_names: ServingNames = NO_SERVING_NAMES,
    ) -> IssuedSvid:
        """The whole way from a CSR to a certificate."""
        prepared = prepare(
            identity,
            parse_csr(csr_pem, LIMITS),
            TtlGrant(seconds=ttl_seconds),
            authority=self.authority,
            profile=PROFILE,
            now=now,
            serial=serial(number),
            serving_names=serving_names,
        )
        return verified(prepared, self.sign(prepared))


def make_pki(
    *,
    now: datetime = NOW,
    trust_domain: TrustDomain = TRUST_DOMAIN,
    curve: ec.EllipticCurve | None = None,
    rsa_bits: int = 0,
    root_lifetime: timedelta = ROOT_LIFETIME,
    issuing_lifetime: timedelta = ISSUING_LIFETIME,
) -> Pki:
    """A fresh root and issuing authority."""
    root_key, issuing_key = (
        rsa.generate_private_key(65537, rsa_bits) if rsa_bits else ec.generate_private_key(curve or ec.SECP256R1())
        for _ in range(2)
    )
    root = create_root(trust_domain, root_key, now=now, serial=serial(1), lifetime=root_lifetime)
    issuing = create_issuing(
        issuing_key.public_key(),
        root,
        root_key,
        trust_domain=trust_domain,
        now=now,
        serial=serial(2),
        lifetime=issuing_lifetime,
    )
    return Pki(
        root_key=root_key,
        issuing_key=issuing_key,
        root=root,
        authority=Authority.of(issuing, (root,), trust_domain, authority_id="issuing-1"),
        bundle=TrustBundle.of(trust_domain, (root,)),
    )


def create_root(
    trust_domain: TrustDomain,
    key: AuthorityPrivateKey,
    *,
    now: datetime,
    serial: int,
    lifetime: timedelta = ROOT_LIFETIME,
) -> x509.Certificate:
    """A root, prepared, signed and assembled."""
    prepared = prepare_root(trust_domain, key.public_key(), now=now, serial=serial, lifetime=lifetime)
    return assemble_authority(prepared, sign_bytes(key, prepared.tbs))


def create_issuing(
    public_key: AuthorityPublicKey,
    root: x509.Certificate,
    root_key: AuthorityPrivateKey,
    *,
    trust_domain: TrustDomain,
    now: datetime,
    serial: int,
    lifetime: timedelta = ISSUING_LIFETIME,
) -> x509.Certificate:
    """An issuing authority's certificate, prepared, signed and assembled."""
    prepared = prepare_issuing(public_key, root, trust_domain=trust_domain, now=now, serial=serial, lifetime=lifetime)
    return assemble_authority(prepared, sign_bytes(root_key, prepared.tbs))


def make_csr(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None,
    *,
    names: tuple[str, ...] = (str(IDENTITY),),
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    subject: x509.Name | None = None,
    algorithm: hashes.SHA256 | hashes.SHA384 | None = None,
) -> str:
    """A CSR as ztunnel makes it (P-256, empty subject, one critical URI name), with room for variations.

    With a given EC key the same bytes come out each time (RFC 6979).
    """
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject or x509.Name([]))
    if names:
        uris = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name) for name in names])
        builder = builder.add_extension(uris, critical=True)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    key = key or ec.generate_private_key(ec.SECP256R1())
    deterministic = True if isinstance(key, ec.EllipticCurvePrivateKey) else None
    request = builder.sign(key, algorithm or hashes.SHA256(), ecdsa_deterministic=deterministic)
    return request.public_bytes(Encoding.PEM).decode()


def istio_agent_csr(key: rsa.RSAPrivateKey) -> str:
    """A CSR as istio-agent makes it: RSA-2048, an organisation with an empty value, a critical URI name."""
    subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "", _validate=False)])
    return make_csr(key, subject=subject)


def pem_csr(der: bytes, label: str = "CERTIFICATE REQUEST") -> str:
    """PEM around any bytes."""
    return f"-----BEGIN {label}-----\n{base64.encodebytes(der).decode()}-----END {label}-----\n"


def spki(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    """A key's SubjectPublicKeyInfo."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
