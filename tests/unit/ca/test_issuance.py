"""Certificates: byte for byte the profile, never beyond their issuer, and never unchecked."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from app.ca import der
from app.ca.authority_issuance import ISSUING_LIFETIME
from app.ca.csr import parse_csr
from app.ca.issuance import PreparedSvid, assemble, prepare, serial_number
from app.ca.profile import TtlGrant
from app.ca.response import PathChecker
from app.ca.serving_names import ServingNames
from app.errors import AppError, ErrorCode
from app.identity.spiffe import SpiffeId
from tests.support.certificates import IDENTITY, LIMITS, NOW, PROFILE, Pki, make_csr, make_pki, serial, spki


@pytest.fixture(scope="module")
def pki() -> Pki:
    return make_pki()


def prepared(pki: Pki, csr_pem: str, *, now: datetime = NOW, number: int = 7, ttl: int = 3600) -> PreparedSvid:
    return prepare(
        IDENTITY,
        parse_csr(csr_pem, LIMITS),
        TtlGrant(seconds=ttl),
        authority=pki.authority,
        profile=PROFILE,
        now=now,
        serial=serial(number),
    )


def test_the_profile_of_a_workload_certificate(pki: Pki) -> None:
    """Every field of a certificate, as the profile says it (RFC 5280, X509-SVID)."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = pki.issue(make_csr(key)).certificate
    assert x509.Version.v3 is certificate.version
    assert serial(7) == certificate.serial_number
    assert pki.authority.certificate.subject.public_bytes() == certificate.issuer.public_bytes()
    assert x509.Name([]) == certificate.subject
    assert NOW - timedelta(seconds=120) == certificate.not_valid_before_utc
    assert NOW + timedelta(seconds=3599) == certificate.not_valid_after_utc
    assert key.public_key() == certificate.public_key()
    assert "1.2.840.10045.4.3.2" == certificate.signature_algorithm_oid.dotted_string
    key_usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(IDENTITY))])
    issuer_key_id = pki.authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    expected = {
        (ExtensionOID.KEY_USAGE, True, key_usage),
        (ExtensionOID.EXTENDED_KEY_USAGE, False, purposes),
        (ExtensionOID.BASIC_CONSTRAINTS, True, x509.BasicConstraints(False, None)),
        (ExtensionOID.SUBJECT_KEY_IDENTIFIER, False, x509.SubjectKeyIdentifier.from_public_key(key.public_key())),
        (
            ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
            False,
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_key_id),
        ),
        (ExtensionOID.SUBJECT_ALTERNATIVE_NAME, True, names),
    }
    assert expected == {(e.oid, e.critical, e.value) for e in certificate.extensions}


def test_case_040_to_044_the_profile_depends_on_the_key_alone(pki: Pki) -> None:
    """Whatever harmless things a CSR asks for, the to-be-signed bytes are the same."""
    key = ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(True, True, True, True, True, False, False, True, True)
    purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    asking = make_csr(
        key, names=(), extensions=((usage, True), (purpose, True), (x509.BasicConstraints(False, None), True))
    )
    assert prepared(pki, make_csr(key)).tbs == prepared(pki, asking).tbs


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()])
def test_a_p384_authority_signs_with_sha384(curve: ec.EllipticCurve) -> None:
    """The hash follows the issuer's curve, not the workload's."""
    issued = make_pki(curve=curve).issue(make_csr())
    expected = hashes.SHA256 if isinstance(curve, ec.SECP256R1) else hashes.SHA384
    assert isinstance(issued.certificate.signature_hash_algorithm, expected)


def test_an_rsa_key_gets_the_same_profile(pki: Pki) -> None:
    """istio-agent's keys, without key encipherment: TLS 1.3 has no use for it."""
    key = rsa.generate_private_key(65537, 2048)
    certificate = pki.issue(make_csr(key)).certificate
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (True, False) == (usage.digital_signature, usage.key_encipherment)
    assert key.public_key() == certificate.public_key()


def test_the_intent_and_the_certificate_say_the_same(pki: Pki) -> None:
    """What is recorded before the signature is what is signed."""
    intent = prepared(pki, make_csr())
    issued = assemble(intent, pki.sign(intent))
    assert intent.tbs == issued.certificate.tbs_certificate_bytes
    assert (intent.serial_hex, intent.not_before, intent.not_after) == (
        issued.serial_hex,
        issued.certificate.not_valid_before_utc,
        issued.certificate.not_valid_after_utc,
    )
    assert issued.sha256 == issued.certificate.fingerprint(hashes.SHA256()).hex()
    assert issued.der == x509.load_pem_x509_certificate(issued.pem.encode()).public_bytes(Encoding.DER)
    assert issued.pem.endswith("-----END CERTIFICATE-----\n")


def test_validity_counts_its_last_second_and_whole_seconds(pki: Pki) -> None:
    """A grant of N seconds from any moment ends N - 1 seconds after the second in which it was made."""
    now = NOW + timedelta(microseconds=999_999)
    certificate = pki.issue(make_csr(), now=now, ttl_seconds=300).certificate
    assert timedelta(seconds=420) == certificate.not_valid_after_utc - certificate.not_valid_before_utc + timedelta(
        seconds=1
    )
    assert NOW + timedelta(seconds=299) == certificate.not_valid_after_utc


def test_case_052_the_last_second_stays_below_the_issuers() -> None:
    """A grant up to the issuer's end leaves the issuer the last word, by one second."""
    pki = make_pki(issuing_lifetime=timedelta(hours=2))
    seconds = int((pki.authority.not_after - NOW).total_seconds())
    certificate = pki.issue(make_csr(), ttl_seconds=seconds).certificate
    assert pki.authority.certificate.not_valid_after_utc - timedelta(seconds=1) == certificate.not_valid_after_utc
    beyond = pki.issue(make_csr(), ttl_seconds=10 * seconds).certificate
    assert certificate.not_valid_after_utc == beyond.not_valid_after_utc


def test_the_root_bounds_the_certificate_too() -> None:
    """Never beyond any element of the chain, root included."""
    pki = make_pki(root_lifetime=timedelta(hours=3), issuing_lifetime=ISSUING_LIFETIME)
    certificate = pki.issue(make_csr(), ttl_seconds=86_400).certificate
    assert certificate.not_valid_after_utc < pki.root.not_valid_after_utc


def test_the_first_second_never_precedes_the_issuers() -> None:
    """The backdate stops where the issuer's own validity starts."""
    pki = make_pki()
    early = pki.authority.not_before + timedelta(seconds=30)
    certificate = pki.issue(make_csr(), now=early).certificate
    assert pki.authority.not_before == certificate.not_valid_before_utc


@pytest.mark.parametrize("early", [timedelta(hours=1, seconds=1), timedelta(days=3), timedelta(days=9_000)])
def test_an_authority_that_is_not_valid_yet_issues_nothing(pki: Pki, early: timedelta) -> None:
    """A host that starts with its clock behind is told so."""
    with pytest.raises(AppError) as caught:
        prepared(pki, make_csr(), now=NOW - early)
    assert ErrorCode.FAILED_PRECONDITION is caught.value.code
    assert caught.value.diagnosis.startswith("clock: ")


def test_times_from_2050_on_change_their_encoding() -> None:
    """UTCTime through 2049, GeneralizedTime from 2050 (RFC 5280 §4.1.2.5), both past the lint."""
    now = datetime(2049, 12, 31, 23, 59, 0, tzinfo=UTC)
    pki = make_pki(now=now)
    certificate = pki.issue(make_csr(), now=now).certificate
    assert (2049, 2050) == (certificate.not_valid_before_utc.year, certificate.not_valid_after_utc.year)


def test_serial_numbers_are_positive_and_17_octets_long() -> None:
    """128 random bits behind a fixed first octet: never zero, never negative, never more than 20 octets."""
    for random in (bytes(16), b"\xff" * 16, bytes(range(16))):
        encoded = serial_number(random).to_bytes(17)
        assert (0x47, random) == (encoded[0], encoded[1:])
    for wrong in (b"", bytes(15), bytes(17)):
        with pytest.raises(ValueError, match="16 random bytes"):
            serial_number(wrong)


@pytest.mark.parametrize("number", [0, 1, 2**64, -1, 2**159, 2**160])
def test_a_serial_of_another_shape_is_stopped(pki: Pki, number: int) -> None:
    """Predictable or oversized numbers never reach the key."""
    with pytest.raises((AppError, ValueError)) as caught:
        prepare(
            IDENTITY,
            parse_csr(make_csr(), LIMITS),
            TtlGrant(seconds=3600),
            authority=pki.authority,
            profile=PROFILE,
            now=NOW,
            serial=number,
        )
    assert not isinstance(caught.value, AppError) or "serial" in caught.value.diagnosis


def test_an_identity_of_another_trust_domain_is_stopped(pki: Pki) -> None:
    """Even if everything before had let it through."""
    with pytest.raises(AppError) as caught:
        pki.issue(make_csr(names=()), identity=SpiffeId.parse("spiffe://elsewhere/ns/shop/sa/cart"))
    assert (ErrorCode.INTERNAL, True) == (caught.value.code, "trust domain" in caught.value.diagnosis)


@pytest.fixture(name="checker", params=["first", "later"])
def _checker(request: pytest.FixtureRequest, pki: Pki) -> PathChecker:
    """A check that has yet to validate the whole path, and one that has done so."""
    checker = PathChecker(pki.authority, pki.bundle)
    if request.param == "later":
        checker.check(pki.issue(make_csr()), now=NOW)
    return checker


def refusal(checker: PathChecker, intent: PreparedSvid, signature: bytes) -> AppError:
    """How the two checks after signing refuse."""
    with pytest.raises(AppError) as caught:
        checker.check(assemble(intent, signature), now=NOW)
    return caught.value


def test_a_signature_of_another_key_is_found(pki: Pki, checker: PathChecker) -> None:
    """A mix-up of keys fails here and not at somebody's handshake."""
    intent = prepared(pki, make_csr())
    wrong = pki.root_key.sign(intent.tbs, ec.ECDSA(hashes.SHA256()))

    assert ErrorCode.INTERNAL is refusal(checker, intent, wrong).code


@pytest.mark.parametrize("signature", [b"", b"\x30\x00", bytes(64), b"\xff" * 72])
def test_a_signature_that_is_none_is_found(pki: Pki, checker: PathChecker, signature: bytes) -> None:
    """Whatever a broken signer answers."""
    assert ErrorCode.INTERNAL is refusal(checker, prepared(pki, make_csr()), signature).code


def test_a_signature_over_another_intent_is_found(pki: Pki, checker: PathChecker) -> None:
    """Two certificates under way cannot swap their signatures."""
    first, second = prepared(pki, make_csr(), number=1), prepared(pki, make_csr(), number=2)

    assert ErrorCode.INTERNAL is refusal(checker, first, pki.sign(second)).code


def test_bytes_that_were_not_linted_are_found(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    """A correct signature over other bytes than the recorded ones is not enough, whoever mixed them up."""
    first, second = prepared(pki, make_csr(), number=1), prepared(pki, make_csr(), number=2)
    other = assemble(second, pki.sign(second)).der
    monkeypatch.setattr(der, "encode_certificate", lambda *_, **__: other)

    with pytest.raises(AppError) as caught:
        assemble(first, pki.sign(first))
    assert "not linted" in caught.value.diagnosis


def test_what_is_put_together_is_what_was_linted(pki: Pki) -> None:
    """The to-be-signed bytes go into the certificate as they were recorded, the algorithm is the authority's."""
    intent = prepared(pki, make_csr())
    certificate = x509.load_der_x509_certificate(assemble(intent, pki.sign(intent)).der)

    assert intent.tbs == certificate.tbs_certificate_bytes
    assert pki.authority.scheme.oid == certificate.signature_algorithm_oid


def test_a_certificate_for_a_listener_of_ours_has_host_names_too(pki: Pki) -> None:
    """The SPIFFE ID first, then names and addresses."""
    names = ServingNames.parse(["localhost", "gatehouse.gatehouse-system.svc", "127.0.0.1", "::1", "localhost"])
    certificate = pki.issue(make_csr(), serving_names=names).certificate
    alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert alternative.critical
    assert [str(IDENTITY), "localhost", "gatehouse.gatehouse-system.svc", "127.0.0.1", "::1"] == [
        str(name.value) for name in alternative.value
    ]


@pytest.mark.parametrize(
    "name", ["", "Upper.Case", "*.wild", "trailing.", "a b", "-x", "fe80::1%eth0", "x" * 64, "a..b"]
)
def test_serving_names_that_are_none(name: str) -> None:
    """Refused when parsed."""
    with pytest.raises(AppError) as caught:
        ServingNames.parse([name])
    assert ErrorCode.INVALID is caught.value.code


def test_too_many_serving_names() -> None:
    """Bounded."""
    with pytest.raises(AppError):
        ServingNames.parse([f"host-{n}" for n in range(33)])


def test_the_csrs_key_bytes_are_the_certificates(pki: Pki) -> None:
    """The whole SubjectPublicKeyInfo, not only the point."""
    key = ec.generate_private_key(ec.SECP384R1())
    assert spki(key) in pki.issue(make_csr(key)).der
