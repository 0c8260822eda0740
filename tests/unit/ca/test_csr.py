"""CSRs: what the two stock clients send is taken, everything else of the negative list is refused."""

from __future__ import annotations

import base64
import math
import time
import warnings

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, mldsa, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from app.ca.csr import Csr, check_key_not_blocked, check_requested_identity, parse_csr
from app.ca.key_policy import key_hash
from app.errors import AppError, ErrorCode
from app.identity.spiffe import SpiffeId
from app.limits import CertificateLimits
from tests.support import der_writer as der
from tests.support.bad_keys import BAD_KEYS
from tests.support.certificates import IDENTITY, LIMITS, istio_agent_csr, make_csr, make_pki, pem_csr, spki

ROOMY = CertificateLimits(max_csr_bytes=1_000_000)


def refusal(pem: str, limits: CertificateLimits = LIMITS) -> AppError:
    """The refusal of a CSR, which must come at a bounded cost (a few ms of CPU; the bound leaves room for slow machines)."""
    start = time.process_time()
    with pytest.raises(AppError) as caught:
        parse_csr(pem, limits)
    assert time.process_time() - start < 0.5
    assert caught.value.code in {ErrorCode.MALFORMED, ErrorCode.INVALID}
    return caught.value


def reason(pem: str, limits: CertificateLimits = LIMITS) -> str:
    return refusal(pem, limits).detail


@pytest.fixture(scope="module")
def rsa_2048() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


# What stock clients send


def test_a_ztunnel_csr_is_taken() -> None:
    """P-256, empty subject, one critical URI name: the key and the name come out."""
    key = ec.generate_private_key(ec.SECP256R1())
    csr = parse_csr(make_csr(key), LIMITS)
    assert (spki(key), "EC-P256", (str(IDENTITY),)) == (csr.public_key_der, csr.key_type, csr.uri_sans)


def test_an_istio_agent_csr_is_taken(rsa_2048: rsa.RSAPrivateKey) -> None:
    """RSA-2048 and an organisation with an empty value: the subject is not looked at."""
    csr = parse_csr(istio_agent_csr(rsa_2048), LIMITS)
    assert (spki(rsa_2048), "RSA-2048", (str(IDENTITY),)) == (csr.public_key_der, csr.key_type, csr.uri_sans)


def test_a_p384_csr_is_taken() -> None:
    """The other curve that istio-agent can be told to use."""
    assert "EC-P384" == parse_csr(make_csr(ec.generate_private_key(ec.SECP384R1())), LIMITS).key_type


def test_a_csr_without_names_is_taken() -> None:
    """The identity comes from the token, so a CSR need not name one."""
    assert () == parse_csr(make_csr(names=()), LIMITS).uri_sans


def test_harmless_extensions_are_taken() -> None:
    """Asking for what every certificate has anyway is fine."""
    usage = x509.KeyUsage(True, False, True, False, False, False, False, False, False)
    purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    extensions = ((usage, True), (purposes, False), (x509.BasicConstraints(False, None), True))
    assert (str(IDENTITY),) == parse_csr(make_csr(extensions=extensions), LIMITS).uri_sans


@pytest.mark.parametrize("label", ["CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_both_labels_line_ends_and_surrounding_white_space_are_taken(label: str, newline: str) -> None:
    """OpenSSL's old label, and what editors do to files."""
    pem = make_csr().replace("CERTIFICATE REQUEST", label).replace("\n", newline)
    assert (str(IDENTITY),) == parse_csr(f"{newline} {pem}{newline}\t", LIMITS).uri_sans


# PEM and DER


@pytest.mark.parametrize("pem", ["", " \r\n\t ", "not PEM", "-----BEGIN CERTIFICATE REQUEST-----"])
def test_case_020_nothing_white_space_or_no_pem(pem: str) -> None:
    """Refused as malformed."""
    assert ErrorCode.MALFORMED is refusal(pem).code


def test_case_021_an_oversized_csr_is_refused_unread() -> None:
    """Over the bound nothing is parsed: 5 MiB cost next to nothing."""
    assert "the CSR is not acceptable: it is longer than 16384 bytes" == reason(make_csr() + " " * 5 * 2**20)


@pytest.mark.parametrize("piece", ["-----BEGIN ", "-----BEGIN CERTIFICATE REQUEST-----\n", "-----END ", "-"])
def test_case_022_quadratic_pem_garbage_is_refused_in_linear_time(piece: str) -> None:
    """64 KB of label fragments, even with a size bound that lets them in."""
    garbage = piece * (65_536 // len(piece))
    for text in (garbage, "-----BEGIN CERTIFICATE REQUEST-----\n" + garbage + "\n-----END CERTIFICATE REQUEST-----"):
        best = math.inf
        for _ in range(3):
            start = time.process_time()
            assert ErrorCode.MALFORMED is refusal(text, ROOMY).code
            best = min(best, time.process_time() - start)
        assert best < 0.03  # a millisecond or two; a scan for each fragment is far beyond


@pytest.mark.parametrize("label", ["CERTIFICATE", "EC PRIVATE KEY", "certificate request", "CERTIFICATE REQUEST "])
def test_case_023_a_wrong_label(label: str) -> None:
    """A certificate is no request."""
    assert "label" in reason(make_csr().replace("CERTIFICATE REQUEST", label))


def test_case_024_two_csrs_in_one_pem() -> None:
    """Refused: which one would be meant?"""
    assert "what stands between the PEM labels is not base64" in reason(make_csr() + make_csr())


@pytest.mark.parametrize("around", [("text\n", ""), ("", "text"), ("-----BEGIN X-----\n", "")])
def test_case_024_text_around_the_block(around: tuple[str, str]) -> None:
    """Only white space may surround the block."""
    assert ErrorCode.MALFORMED is refusal(around[0] + make_csr() + around[1]).code


def test_a_pem_header_is_refused() -> None:
    """RFC 1421 headers have no place in a CSR."""
    pem = make_csr().replace("REQUEST-----\n", "REQUEST-----\nProc-Type: 4,ENCRYPTED\n\n", 1)
    assert ErrorCode.MALFORMED is refusal(pem).code


@pytest.mark.parametrize("character", ["\N{ZERO WIDTH SPACE}", "\x00", "\N{FULLWIDTH LATIN CAPITAL LETTER A}", "!"])
def test_characters_outside_base64_are_refused(character: str) -> None:
    """Nothing is skipped in silence."""
    pem = make_csr()
    assert ErrorCode.MALFORMED is refusal(pem[:100] + character + pem[100:]).code


def test_case_025_trailing_garbage_after_the_der() -> None:
    """One structure and nothing after it."""
    der_bytes = base64.b64decode("".join(make_csr().splitlines()[1:-1]))
    assert ErrorCode.MALFORMED is refusal(pem_csr(der_bytes + b"\x00")).code


@pytest.mark.parametrize("garbage", [b"", b"\x30\x00", b"\x30\x80\x00\x00", bytes(100), b"\x30\x84\xff\xff\xff\xff"])
def test_bytes_that_are_no_request(garbage: bytes) -> None:
    """Refused as malformed, whatever they are."""
    assert ErrorCode.MALFORMED is refusal(pem_csr(garbage)).code


# Signatures


def test_case_026_a_wrong_self_signature() -> None:
    """No proof of possession, no certificate."""
    other, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    assert "signature" in reason(pem_csr(der.signed_csr(other, spki(key))))


def test_case_027_sha1_and_md5_signatures(rsa_2048: rsa.RSAPrivateKey) -> None:
    """Only SHA-2: a signature that could be forged proves nothing."""
    ec_csr = der.unsigned_csr(spki(ec.generate_private_key(ec.SECP256R1())), algorithm=der.sequence(der.OID_ECDSA_SHA1))
    rsa_csr = der.unsigned_csr(spki(rsa_2048), algorithm=der.sequence(der.OID_RSA_MD5, der.NULL))
    assert all("SHA-256" in reason(pem_csr(csr)) for csr in (ec_csr, rsa_csr))


def test_a_signature_algorithm_of_another_key_type(rsa_2048: rsa.RSAPrivateKey) -> None:
    """An RSA key with an ECDSA signature is a refusal, not a crash."""
    assert "signature" in reason(pem_csr(der.unsigned_csr(spki(rsa_2048))))


# Keys


@pytest.mark.parametrize(("case", "bits"), [("028", 1024), ("029", 2047), ("029", 2056), ("029", 3000), ("030", 16384)])
def test_case_028_to_030_rsa_sizes(case: str, bits: int) -> None:
    """Only 2048, 3072 and 4096 bits; the size is looked at before any arithmetic."""
    del case
    modulus = (1 << (bits - 1)) | 1
    assert "2048, 3072 or 4096" in reason(pem_csr(der.unsigned_csr(der.rsa_key(modulus, 65537))))


@pytest.mark.parametrize(("case", "exponent"), [("031", 1), ("032", 3), ("032", 2**64 + 1), ("031", 0)])
def test_case_031_032_rsa_exponents(case: str, exponent: int, rsa_2048: rsa.RSAPrivateKey) -> None:
    """Only 65537."""
    del case
    modulus = rsa_2048.public_key().public_numbers().n
    refused = refusal(pem_csr(der.unsigned_csr(der.rsa_key(modulus, exponent))))
    assert "key" in refused.detail


def test_case_033_an_even_modulus(rsa_2048: rsa.RSAPrivateKey) -> None:
    """No RSA key is even."""
    modulus = rsa_2048.public_key().public_numbers().n + 1
    refused = refusal(pem_csr(der.unsigned_csr(der.rsa_key(modulus, 65537))))
    assert "key" in refused.detail


def test_a_modulus_with_a_small_factor() -> None:
    """Divisible by 751, the last prime that is tried."""
    modulus = 751 * ((1 << 2038) + 1)
    assert 2048 == modulus.bit_length()
    assert "small factor" in reason(pem_csr(der.unsigned_csr(der.rsa_key(modulus, 65537))))


def test_case_034_primes_that_are_close_together() -> None:
    """Fermat's method would factor it at once."""
    prime = next_prime(math.isqrt(1 << 2047) + (1 << 900))
    close = next_prime(prime + 2)
    assert "too close together" in reason(pem_csr(der.unsigned_csr(der.rsa_key(prime * close, 65537))))


def test_case_035_a_roca_key() -> None:
    """A modulus with the fingerprint of CVE-2017-15361: a power of 65537 modulo every small prime."""
    product = math.prod(prime for prime in range(3, 168) if all(prime % d for d in range(2, prime)))
    residue = pow(65537, 4711, product)
    factor = (1 << 2047) // product + 1
    while (factor * product + residue) % 2 == 0 or any((factor * product + residue) % p == 0 for p in range(2, 752)):
        factor += 1
    assert "ROCA" in reason(pem_csr(der.unsigned_csr(der.rsa_key(factor * product + residue, 65537))))


@pytest.mark.parametrize("curve", [ec.SECP224R1(), ec.SECP256K1(), ec.SECP521R1()])
def test_case_036_other_curves(curve: ec.EllipticCurve) -> None:
    """P-256 and P-384 only."""
    assert "P-256 or P-384" in reason(make_csr(ec.generate_private_key(curve)))


EXPLICIT_P256 = der.sequence(
    der.integer(1),
    der.sequence(bytes.fromhex("06072a8648ce3d0101"), der.integer(2**256 - 2**224 + 2**192 + 2**96 - 1)),
)
ON_P256 = (
    ec.derive_private_key(7, ec.SECP256R1()).public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
)


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(der.ec_key(ON_P256, EXPLICIT_P256), id="explicit parameters"),
        pytest.param(der.ec_key(b"\x00"), id="point at infinity"),
        pytest.param(der.ec_key(ON_P256[:-1] + bytes([ON_P256[-1] ^ 1])), id="point off the curve"),
        pytest.param(der.ec_key(b"\x04" + bytes(64)), id="zero point"),
        pytest.param(der.ec_key(ON_P256[:40]), id="short point"),
        pytest.param(der.ec_key(ON_P256, der.NULL), id="no curve"),
    ],
)
def test_case_036_broken_points_and_parameters(key: bytes) -> None:
    """Refused before the signature is looked at."""
    refused = refusal(pem_csr(der.unsigned_csr(key)))
    assert "key" in refused.detail or ErrorCode.MALFORMED is refused.code


UNSUPPORTED_KEYS = [
    pytest.param(dsa.generate_private_key(1024), id="DSA"),
    pytest.param(ed448.Ed448PrivateKey.generate(), id="Ed448"),
    pytest.param(x25519.X25519PrivateKey.generate(), id="X25519"),
    pytest.param(mldsa.MLDSA65PrivateKey.generate(), id="ML-DSA-65"),
]


@pytest.mark.parametrize("key", UNSUPPORTED_KEYS)
def test_case_037_unsupported_key_types(key: x25519.X25519PrivateKey) -> None:
    """Named as what they are: an unsupported type."""
    encoded = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert "unsupported" in reason(pem_csr(der.unsigned_csr(encoded)))


def test_case_038_ed25519_is_refused_too() -> None:
    """Decided: no client of ours makes such keys, and not every peer verifies them."""
    key = ed25519.Ed25519PrivateKey.generate().public_key()
    encoded = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert "unsupported" in reason(pem_csr(der.unsigned_csr(encoded)))


@pytest.mark.parametrize("name", BAD_KEYS)
def test_case_028_to_038_refusing_a_key_costs_less_than_50_milliseconds(name: str) -> None:
    """The best of a few, in CPU time: a key is no lever to keep the authority busy."""
    pem, costs = pem_csr(der.unsigned_csr(BAD_KEYS[name]())), []
    for _ in range(3):
        start = time.process_time()
        with pytest.raises(AppError):
            parse_csr(pem, LIMITS)
        costs.append(time.process_time() - start)

    assert min(costs) < 0.05


def test_case_028_to_038_accepting_the_dearest_key_costs_less_than_50_milliseconds() -> None:
    """RSA-4096 goes through every check."""
    pem, costs = make_csr(rsa.generate_private_key(65537, 4096)), []
    for _ in range(3):
        start = time.process_time()
        parse_csr(pem, LIMITS)
        costs.append(time.process_time() - start)

    assert min(costs) < 0.05


def test_case_039_a_blocked_key() -> None:
    """A key on the list is refused, another is not."""
    csr = parse_csr(make_csr(), LIMITS)
    check_key_not_blocked(csr, frozenset({key_hash(b"another")}))
    with pytest.raises(AppError) as caught:
        check_key_not_blocked(csr, frozenset({key_hash(csr.public_key_der)}))
    assert ErrorCode.INVALID is caught.value.code


def test_case_039_a_key_of_an_authority() -> None:
    """Root and issuing keys are both known to the authority as its own."""
    pki = make_pki()
    for key in (pki.root_key, pki.issuing_key):
        with pytest.raises(AppError) as caught:
            pki.issue(make_csr(key))
        assert ErrorCode.INVALID is caught.value.code


# What a CSR must not ask for

USAGE_CERT_SIGN = x509.KeyUsage(True, False, False, False, False, True, False, False, False)
USAGE_CRL_SIGN = x509.KeyUsage(True, False, False, False, False, False, True, False, False)
NEVER_GRANTED = [
    pytest.param(x509.BasicConstraints(True, None), id="case 040 CA:TRUE"),
    pytest.param(x509.BasicConstraints(True, 0), id="case 040 CA:TRUE with path length"),
    pytest.param(USAGE_CERT_SIGN, id="case 041 keyCertSign"),
    pytest.param(USAGE_CRL_SIGN, id="case 041 cRLSign"),
    pytest.param(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), id="case 042 codeSigning"),
    pytest.param(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]), id="case 042 any purpose"),
    pytest.param(x509.NameConstraints([x509.DNSName("example")], None), id="case 043 name constraints"),
    pytest.param(
        x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00"), id="case 044 unknown"
    ),
]


@pytest.mark.parametrize("critical", [True, False])
@pytest.mark.parametrize("extension", NEVER_GRANTED)
def test_case_040_to_044_asking_for_what_is_never_granted(extension: x509.ExtensionType, critical: bool) -> None:
    """Refused, so that nobody believes to have got it."""
    assert "never granted" in reason(make_csr(extensions=((extension, critical),)))


def test_an_attribute_besides_the_extension_request_is_refused() -> None:
    """A challenge password has no meaning here."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    builder = builder.add_attribute(x509.oid.AttributeOID.CHALLENGE_PASSWORD, b"secret")
    request = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    assert "attributes" in reason(request.public_bytes(Encoding.PEM).decode())


def test_two_extension_requests_are_refused() -> None:
    """Two readers could each take another one."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = der.sequence(bytes.fromhex("06092a864886f70d01090e"), der.tlv(0x31, der.sequence()))
    assert ErrorCode.INVALID is refusal(pem_csr(der.signed_csr(key, spki(key), attributes=request + request))).code


def test_case_045_another_identity_than_the_authorised_one() -> None:
    """Refused by the check that a caller may leave out; the authorised one and none at all pass."""
    other = SpiffeId.parse("spiffe://cluster.local/ns/shop/sa/admin")
    check_requested_identity(parse_csr(make_csr(), LIMITS), IDENTITY)
    check_requested_identity(parse_csr(make_csr(names=()), LIMITS), IDENTITY)
    for names in ((str(other),), (str(IDENTITY), str(other)), ("spiffe://Cluster.local/ns/shop/sa/cart",)):
        with pytest.raises(AppError) as caught:
            check_requested_identity(parse_csr(make_csr(names=names), LIMITS), IDENTITY)
        assert ErrorCode.INVALID is caught.value.code


def test_case_046_ten_thousand_names() -> None:
    """Refused by size, and by count where the size bound would let them in."""
    pem = make_csr(names=tuple(f"spiffe://cluster.local/ns/a/sa/{n}" for n in range(10_000)))
    assert "longer than" in reason(pem)
    assert "more than 8 names" in reason(pem, ROOMY)


@pytest.mark.parametrize("name", [x509.DNSName("kubernetes.default"), x509.RFC822Name("root@example")])
def test_names_other_than_uris_are_refused(name: x509.GeneralName) -> None:
    """A workload certificate has no host name and no mail address."""
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(IDENTITY)), name])
    assert "names other than URIs" in reason(make_csr(names=(), extensions=((names, True),)))


@pytest.mark.parametrize("common_name", ["x" * 65, "line\nbreak", "<script>", "\N{SNOWMAN}"])
def test_case_047_a_hostile_common_name_is_never_reflected(common_name: str) -> None:
    """The subject is not looked at: the certificate is byte for byte the one without it."""
    key = ec.derive_private_key(4711, ec.SECP256R1())
    with warnings.catch_warnings(action="ignore"):  # the library warns of what we mean to do
        attribute = x509.NameAttribute(NameOID.COMMON_NAME, common_name, _validate=False)
    pki = make_pki()
    with_name = pki.issue(make_csr(key, subject=x509.Name([attribute])))
    without = pki.issue(make_csr(key))
    assert without.certificate.tbs_certificate_bytes == with_name.certificate.tbs_certificate_bytes


def test_the_key_that_is_certified_is_the_csrs() -> None:
    """A value made by hand stands for a checked CSR: the parsed one says the same."""
    key = ec.generate_private_key(ec.SECP256R1())
    expected = Csr(public_key=key.public_key(), public_key_der=spki(key), key_type="EC-P256", uri_sans=(str(IDENTITY),))
    assert expected == parse_csr(make_csr(key), LIMITS)


SMALL_PRIMES = math.prod(p for p in range(3, 1000) if all(p % d for d in range(2, p)))


def next_prime(start: int) -> int:
    """The first probable prime from an odd start (Miller-Rabin with fixed bases)."""
    candidate = start | 1
    while not is_probable_prime(candidate):
        candidate += 2
    return candidate


def is_probable_prime(candidate: int) -> bool:
    if math.gcd(candidate, SMALL_PRIMES) != 1:
        return False
    odd, twos = candidate - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 3, 5, 7):
        value = pow(base, odd, candidate)
        if value in (1, candidate - 1):
            continue
        if all((value := value * value % candidate) != candidate - 1 for _ in range(twos - 1)):
            return False
    return True
