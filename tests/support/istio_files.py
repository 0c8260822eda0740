"""Certificate sets in the shapes that istiod and Istio's Makefile make them, and others that people mount.

What istiod makes by itself: RSA-2048, `O=<trust domain>`, key usage keyCertSign only, no authority key identifier, a
subject key identifier, basic constraints without path length; one certificate that issues by itself. What the Makefile
makes with OpenSSL: RSA-4096 root and intermediate with names in O, CN and L, key usages beyond what is needed, no
authority key identifier, a DNS name in the intermediate, `cert-chain.pem` = intermediate and root.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
DAY = timedelta(days=1)


def start_of_today() -> datetime:
    """A day ago, so that everything is valid now."""
    return datetime.now(UTC).replace(microsecond=0) - DAY


@lru_cache(maxsize=8)
def rsa_key(bits: int, number: int = 0) -> rsa.RSAPrivateKey:
    """A key that is made once a test run: RSA keys take seconds."""
    return rsa.generate_private_key(65537, bits)


def usage(*, crl: bool = False, more: bool = False) -> x509.KeyUsage:
    """keyCertSign, with cRLSign or with what Istio's Makefile adds."""
    return x509.KeyUsage(more, more, more, False, False, True, crl, False, False)


def certificate(
    subject: x509.Name,
    key: Key,
    issuer: x509.Certificate | None = None,
    issuer_key: Key | None = None,
    *,
    key_usage: x509.KeyUsage | None = None,
    path_length: int | None = None,
    dns: str = "",
    uri: str = "",
    days: int = 3650,
    not_before: datetime | None = None,
    algorithm: hashes.HashAlgorithm | None = None,
) -> x509.Certificate:
    """An authority's certificate, self-signed unless an issuer is given."""
    start = not_before or start_of_today()
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(key_usage or usage(crl=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    names: list[x509.GeneralName] = [x509.DNSName(dns)] if dns else []
    names += [x509.UniformResourceIdentifier(uri)] if uri else []
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(issuer_key or key, algorithm or hashes.SHA256())


def name(**parts: str) -> x509.Name:
    """A name of O, CN, L."""
    oids = {"O": NameOID.ORGANIZATION_NAME, "CN": NameOID.COMMON_NAME, "L": NameOID.LOCALITY_NAME}
    return x509.Name([x509.NameAttribute(oids[part], value) for part, value in parts.items()])


def pem(*certificates: x509.Certificate) -> bytes:
    """Certificates in PEM."""
    return b"".join(one.public_bytes(Encoding.PEM) for one in certificates)


def key_pem(key: Key) -> bytes:
    """A key as Go and OpenSSL write it: PKCS #1 for RSA, PKCS #8 else."""
    form = PrivateFormat.TraditionalOpenSSL if isinstance(key, rsa.RSAPrivateKey) else PrivateFormat.PKCS8
    return key.private_bytes(Encoding.PEM, form, NoEncryption())


@dataclass(frozen=True)
class IstioSet:
    """One set: certificates, the issuing key, and the files."""

    issuing: x509.Certificate
    key: Key
    root: x509.Certificate
    files: dict[str, bytes]

    def write(self, directory: Path) -> Path:
        """The files in a folder, the key for its owner only."""
        directory.mkdir(parents=True, exist_ok=True)
        for file, data in self.files.items():
            path = directory / file
            path.touch(mode=0o600)
            path.write_bytes(data)
        return directory

    def without_key(self) -> dict[str, bytes]:
        """The certificates' files."""
        return {file: data for file, data in self.files.items() if "key" not in file}


def istiods_own(*, trust_domain: str = "cluster.local", number: int = 0, days: int = 3650) -> IstioSet:
    """Secret `istio-ca-secret` as mounted: the unused files are there and empty."""
    key = rsa_key(2048, number)
    root = certificate(name(O=trust_domain), key, key_usage=usage(), days=days)
    files = {
        "ca-cert.pem": pem(root),
        "ca-key.pem": key_pem(key),
        "cert-chain.pem": b"",
        "key.pem": b"",
        "root-cert.pem": b"",
    }
    return IstioSet(root, key, root, files)


def plugged_in(*, bits: int = 4096, cluster: str = "cluster1", number: int = 0) -> IstioSet:
    """Secret `cacerts` as Istio's Makefile makes it."""
    root_key, key = rsa_key(bits, 10), rsa_key(bits, 11 + number)
    root = certificate(name(O="Istio", CN="Root CA"), root_key, key_usage=usage(more=True))
    intermediate = certificate(
        name(O="Istio", CN="Intermediate CA", L=cluster), key, root, root_key,
        key_usage=usage(more=True), path_length=0, dns="istiod.istio-system.svc", days=730,
    )  # fmt: skip
    files = {
        "ca-cert.pem": pem(intermediate),
        "ca-key.pem": key_pem(key),
        "cert-chain.pem": pem(intermediate, root),
        "root-cert.pem": pem(root),
    }
    return IstioSet(intermediate, key, root, files)


def small_plugged_in(
    *, cluster: str = "cluster1", under: tuple[x509.Certificate, Key] | None = None, depth: int = 1
) -> IstioSet:
    """The same shape on P-256, for tests that need many; `depth` intermediates below the root, a new one by default."""
    root_key = under[1] if under else ec.generate_private_key(ec.SECP256R1())
    root = under[0] if under else certificate(name(O="Istio", CN="Root CA"), root_key, days=1000)
    above, above_key = root, root_key
    chain: list[x509.Certificate] = []
    for level in range(depth):
        key = ec.generate_private_key(ec.SECP256R1())
        issued = certificate(
            name(O="Istio", CN=f"Intermediate CA {level}", L=cluster), key, above, above_key,
            path_length=depth - 1 - level, days=500,
        )  # fmt: skip
        chain.insert(0, issued)
        above, above_key = issued, key
    files = {
        "ca-cert.pem": pem(chain[0]),
        "ca-key.pem": key_pem(above_key),
        "cert-chain.pem": pem(*chain, root),
        "root-cert.pem": pem(root),
    }
    return IstioSet(chain[0], above_key, root, files)


def cert_managers(source: IstioSet) -> IstioSet:
    """The same set as cert-manager writes it into a Secret."""
    chain = source.files["cert-chain.pem"] or source.files["ca-cert.pem"]
    files = {"tls.crt": chain, "tls.key": source.files["ca-key.pem"], "ca.crt": pem(source.root)}
    return IstioSet(source.issuing, source.key, source.root, files)
