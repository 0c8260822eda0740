"""Trust bundles: roots and nothing but roots, whatever their order."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from app.ca.bundle import MAX_BUNDLE_CHARS, TrustBundle
from app.errors import AppError, ErrorCode
from tests.support.certificates import TRUST_DOMAIN, make_csr, make_pki, pem_csr

ONE, TWO = make_pki(), make_pki()


def pem(*certificates: object) -> str:
    return "".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in certificates)


def test_order_and_repetition_do_not_matter() -> None:
    """C10: two spellings of the same set are equal, so that nobody takes one for a rotation."""
    first = TrustBundle.from_pem(TRUST_DOMAIN, pem(ONE.root, TWO.root))
    second = TrustBundle.from_pem(TRUST_DOMAIN, pem(TWO.root, ONE.root, TWO.root))
    assert first == second
    assert first.fingerprint == second.fingerprint
    assert 2 == len(first.roots)


def test_another_set_is_another_bundle() -> None:
    """The fingerprint tells them apart."""
    both = TrustBundle.of(TRUST_DOMAIN, (ONE.root, TWO.root))
    assert both.fingerprint != ONE.bundle.fingerprint


def test_the_pem_is_what_goes_out() -> None:
    """All roots, each ending in a newline, readable again."""
    bundle = TrustBundle.of(TRUST_DOMAIN, (ONE.root, TWO.root))
    assert bundle.pem.endswith("-----END CERTIFICATE-----\n")
    assert bundle == TrustBundle.from_pem(TRUST_DOMAIN, bundle.pem)
    assert bundle == TrustBundle.from_pem(TRUST_DOMAIN, "\r\n" + bundle.pem.replace("\n", "\r\n"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "text",
        pem(ONE.root) + "text",
        "text" + pem(ONE.root),
        pem(ONE.root) + pem(ONE.root)[:-5],
        pem(ONE.root).replace("CERTIFICATE", "TRUSTED CERTIFICATE"),
        pem_csr(b"no certificate", "CERTIFICATE"),
        pem(ONE.root) + "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n",
    ],
)
def test_anything_but_certificates_is_malformed(text: str) -> None:
    """Never half of a bundle."""
    with pytest.raises(AppError) as caught:
        TrustBundle.from_pem(TRUST_DOMAIN, text)
    assert ErrorCode.MALFORMED is caught.value.code


def test_a_workload_certificate_is_no_root() -> None:
    """C10: no leaf certificates."""
    leaf = ONE.issue(make_csr()).certificate
    with pytest.raises(AppError) as caught:
        TrustBundle.of(TRUST_DOMAIN, (ONE.root, leaf))
    assert ErrorCode.INVALID is caught.value.code


def test_no_roots_and_oversized_bundles_are_refused() -> None:
    """An empty bundle would make a ztunnel fail; a huge one would weigh on every handshake."""
    for roots in ((), tuple(make_pki().root for _ in range(65))):
        with pytest.raises(AppError):
            TrustBundle.of(TRUST_DOMAIN, roots)
    with pytest.raises(AppError):
        TrustBundle.from_pem(TRUST_DOMAIN, pem(ONE.root) + " " * MAX_BUNDLE_CHARS)
