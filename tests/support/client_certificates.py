"""Client certificates that nobody should believe: signed by the world's own authority, and wrong in one respect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.support.certificates import Pki

CLIENT_AND_SERVER = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientShape:
    """What stands in a client certificate; without changes, what stands in a workload's."""

    uris: Sequence[str] = ("spiffe://cluster.local/ns/shop/sa/cart",)
    is_authority: bool = False
    purposes: Sequence[x509.ObjectIdentifier] = CLIENT_AND_SERVER
    digital_signature: bool = True
    begins: timedelta = timedelta(minutes=-2)
    ends: timedelta = timedelta(hours=1)
    serial: int = field(default_factory=x509.random_serial_number)


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeCertificate:
    """A certificate, its key, and the chain to show, as a TLS client needs them."""

    leaf: x509.Certificate
    key_pem: bytes = field(repr=False)
    chain_pem: bytes

    @property
    def pem(self) -> str:
        """The leaf alone."""
        return self.leaf.public_bytes(Encoding.PEM).decode()


def make_client_certificate(
    pki: Pki, shape: ClientShape | None = None, *, now: datetime | None = None
) -> MadeCertificate:
    """Sign whatever the shape says with the issuing key of a PKI."""
    shape, now = shape or ClientShape(), now or datetime.now(UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(shape.digital_signature, False, False, False, False, shape.is_authority, False, False, False)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(pki.authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(shape.serial)
        .not_valid_before(now + shape.begins)
        .not_valid_after(now + shape.ends)
        .add_extension(usage, critical=True)
        .add_extension(x509.BasicConstraints(ca=shape.is_authority, path_length=None), critical=True)
    )
    if shape.uris:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in shape.uris])
        builder = builder.add_extension(names, critical=True)
    if shape.purposes:
        builder = builder.add_extension(x509.ExtendedKeyUsage(list(shape.purposes)), critical=False)
    leaf = builder.sign(pki.issuing_key, hashes.SHA256())
    intermediates = "".join(pki.authority.intermediate_pems).encode()
    return MadeCertificate(
        leaf=leaf,
        key_pem=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        chain_pem=leaf.public_bytes(Encoding.PEM) + intermediates,
    )
