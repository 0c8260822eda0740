"""An independent linter (pkilint) on every kind of certificate that we make."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from app.ca.serving_names import ServingNames
from tests.support.certificates import NOW, Pki, make_csr, make_pki
from tests.support.pkix_lint import pkix_findings

ISSUERS = {
    "P-256": {"curve": ec.SECP256R1()},
    "P-384": {"curve": ec.SECP384R1()},
    "RSA-2048": {"rsa_bits": 2048},
}


@pytest.fixture(scope="module", params=ISSUERS.values(), ids=ISSUERS.keys())
def pki(request: pytest.FixtureRequest) -> Pki:
    return make_pki(**request.param)


def test_authorities_have_no_findings(pki: Pki) -> None:
    """Root and issuing authority."""
    assert ([], []) == (pkix_findings(pki.root), pkix_findings(pki.authority.certificate))


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-256", "P-384", "RSA-2048"],
)
def test_workload_certificates_have_no_findings(pki: Pki, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    """With every type of key that is accepted."""
    assert [] == pkix_findings(pki.issue(make_csr(key)).certificate)


def test_serving_certificates_have_no_findings(pki: Pki) -> None:
    """With host names and addresses beside the SPIFFE ID."""
    names = ServingNames.parse(["localhost", "gatehouse.gatehouse-system.svc", "127.0.0.1", "::1"])
    assert [] == pkix_findings(pki.issue(make_csr(), serving_names=names).certificate)


def test_certificates_that_cross_2050_have_no_findings() -> None:
    """Both encodings of time in one certificate."""
    now = datetime(2049, 12, 31, 23, 59, 0, tzinfo=UTC)
    assert [] == pkix_findings(make_pki(now=now).issue(make_csr(), now=now).certificate)


def test_the_linter_finds_what_is_wrong(pki: Pki) -> None:
    """Key encipherment with an elliptic curve key, as istiod writes it: the test above can fail."""
    good = pki.issue(make_csr()).certificate
    builder = x509.CertificateBuilder(good.issuer, good.subject, good.public_key(), good.serial_number)
    builder = builder.not_valid_before(NOW).not_valid_after(good.not_valid_after_utc)
    for extension in good.extensions:
        value = extension.value
        if isinstance(value, x509.KeyUsage):
            value = x509.KeyUsage(True, False, True, False, False, False, False, False, False)
        builder = builder.add_extension(value, extension.critical)
    assert pkix_findings(builder.sign(pki.issuing_key, hashes.SHA256()))
