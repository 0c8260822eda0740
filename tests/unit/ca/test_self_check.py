"""Every profile of ours is built and linted at the start, and findings refuse it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from app.bootstrap.signer import check_profiles
from app.ca import issuance
from app.ca.profile import max_workload_lifetime
from app.ca.self_check import profile_findings
from app.errors import AppError, ErrorCode
from app.settings import load_settings
from tests.support.certificates import LIMITS, NOW, PROFILE, Pki, make_pki

CAP = max_workload_lifetime(LIMITS)
MAKES = {
    "P-256": make_pki,
    "P-384": lambda: make_pki(curve=ec.SECP384R1()),
    "RSA": lambda: make_pki(rsa_bits=2048),
    "a short root": lambda: make_pki(root_lifetime=timedelta(days=2)),
    "an expired root": lambda: make_pki(now=NOW - timedelta(days=9), root_lifetime=timedelta(days=2)),
    "a root of tomorrow": lambda: make_pki(now=NOW + timedelta(days=1)),
}


@pytest.mark.parametrize("pki", [make() for make in MAKES.values()], ids=MAKES)
def test_the_profiles_have_no_findings(pki: Pki) -> None:
    """Workloads with every kind of key, listeners, roots and issuing authorities, under every kind of issuer."""
    assert [] == profile_findings(pki.authority, PROFILE, max_lifetime=CAP, now=NOW)


def test_what_the_keeper_of_the_key_would_refuse_is_found() -> None:
    """Limits that do not fit together are found here and not at the first certificate."""
    findings = profile_findings(make_pki().authority, PROFILE, max_lifetime=CAP - timedelta(seconds=1), now=NOW)
    assert 5 == len(findings)
    assert all("it lives longer than is allowed" in finding for finding in findings)


def test_a_profile_with_findings_refuses_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake of ours stops us, with a sentence that names the profile."""
    usage = issuance._KEY_USAGE
    broken = {name: getattr(usage, name) for name in ("digital_signature", "content_commitment", "key_agreement")}
    others = dict.fromkeys(("data_encipherment", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"), False)
    wrong = type(usage)(key_encipherment=True, **broken, **others)
    profile = x509.CertificateBuilder().subject_name(x509.Name([])).add_extension(wrong, critical=True)
    monkeypatch.setattr(issuance, "_PROFILE", profile)
    with pytest.raises(AppError) as caught:
        check_profiles(make_pki().authority, load_settings(environ={}), now=NOW)
    assert ErrorCode.FAILED_PRECONDITION is caught.value.code
    assert "workload, EC-P256" in caught.value.detail
    assert "2.5.29.15" in caught.value.detail


def test_an_authority_whose_values_do_not_fit_its_certificate_is_found() -> None:
    """Whatever let it come this far."""
    pki = make_pki()
    authority = replace(pki.authority, name=pki.root.subject.public_bytes())
    assert profile_findings(authority, PROFILE, max_lifetime=CAP, now=NOW)
