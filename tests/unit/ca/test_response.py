"""The answer, read as its receivers read it."""

from __future__ import annotations

import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from app.ca.authority import Authority
from app.ca.authority_lint import authority_key_usage
from app.ca.bundle import TrustBundle
from app.ca.issuance import IssuedSvid
from app.ca.response import PathChecker, cert_chain, check_as_ztunnel
from app.ca.signing import AuthorityPrivateKey
from app.errors import AppError, ErrorCode
from tests.support.certificates import IDENTITY, NOW, TRUST_DOMAIN, Pki, make_csr, make_pki


@pytest.fixture(scope="module")
def pki() -> Pki:
    return make_pki()


def chain_of(pki: Pki, bundle: TrustBundle | None = None) -> list[str]:
    return cert_chain(pki.issue(make_csr()), pki.authority, bundle or pki.bundle)


def refusal_of(chain: list[str], identity: str = str(IDENTITY)) -> str:
    with pytest.raises(AppError) as caught:
        check_as_ztunnel(chain, identity)
    assert ErrorCode.INTERNAL is caught.value.code
    return caught.value.diagnosis


def test_leaf_then_each_intermediate_then_all_roots(pki: Pki) -> None:
    """L28: two roots during a rotation stand in one last element."""
    bundle = TrustBundle.of(TRUST_DOMAIN, (pki.root, make_pki().root))
    chain = chain_of(pki, bundle)
    assert [1, 1, 2] == [element.count("BEGIN CERTIFICATE") for element in chain]
    assert pki.authority.certificate.public_bytes(Encoding.PEM).decode() == chain[1]
    assert bundle.pem == chain[2]
    assert all(element.endswith("-----END CERTIFICATE-----\n") for element in chain)
    check_as_ztunnel(chain, str(IDENTITY))


def test_what_a_ztunnel_would_trip_over(pki: Pki) -> None:
    """Each fault of an answer is named."""
    leaf, intermediate, roots = chain_of(pki)
    assert "no root" in refusal_of([])
    assert "no root" in refusal_of([leaf])
    assert "more than one" in refusal_of([leaf + intermediate, roots])
    assert "more than one" in refusal_of([leaf, intermediate + intermediate, roots])
    assert "newline" in refusal_of([leaf.rstrip(), intermediate, roots])
    assert "not PEM" in refusal_of([leaf, "\n", roots])
    assert "not PEM" in refusal_of([leaf, intermediate, roots.replace("CERTIFICATE", "X509 CRL")])
    assert "first URI" in refusal_of([intermediate, leaf, roots])
    assert "first URI" in refusal_of([leaf, intermediate, roots], "spiffe://cluster.local/ns/shop/sa/other")
    assert "first URI" in refusal_of([leaf, intermediate, roots], str(IDENTITY) + "/")


def test_a_leaf_without_names_is_refused(pki: Pki) -> None:
    """No URI name, no identity."""
    _, intermediate, roots = chain_of(pki)
    key = ec.generate_private_key(ec.SECP256R1())
    bare = (
        x509.CertificateBuilder(pki.root.subject, x509.Name([]), key.public_key(), 5)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    assert "first URI" in refusal_of([bare.public_bytes(Encoding.PEM).decode(), intermediate, roots])


# Path validation


def test_paths_hold_for_the_first_and_the_later_certificates(pki: Pki) -> None:
    """The first is validated up to the roots, the later ones up to the authority."""
    checker = PathChecker(pki.authority, pki.bundle)
    for _ in range(3):
        checker.check(pki.issue(make_csr()), now=NOW)


def test_paths_hold_under_a_union_bundle(pki: Pki) -> None:
    """During a rotation there are other roots beside ours."""
    bundle = TrustBundle.of(TRUST_DOMAIN, (make_pki().root, pki.root, make_pki().root))
    PathChecker(pki.authority, bundle).check(pki.issue(make_csr()), now=NOW)


def diagnosis(checker: PathChecker, issued: IssuedSvid, now: datetime = NOW) -> str:
    with pytest.raises(AppError) as caught:
        checker.check(issued, now=now)
    assert ErrorCode.INTERNAL is caught.value.code
    return caught.value.diagnosis


def test_a_bundle_without_our_root_is_found(pki: Pki) -> None:
    """Nobody would believe the certificate; and a failure does not count as a known path."""
    checker = PathChecker(pki.authority, make_pki().bundle)
    for _ in range(2):
        assert "path validation" in diagnosis(checker, pki.issue(make_csr()))


def test_a_certificate_of_a_stranger_is_found(pki: Pki) -> None:
    """First and later."""
    stranger = make_pki().issue(make_csr())
    checker = PathChecker(pki.authority, pki.bundle)
    assert "path validation" in diagnosis(checker, stranger)
    checker.check(pki.issue(make_csr()), now=NOW)
    assert "path validation" in diagnosis(checker, stranger)


def test_certificates_outside_their_time_are_found(pki: Pki) -> None:
    """Not yet valid, no longer valid, and an issuing chain that has ended."""
    checker = PathChecker(pki.authority, pki.bundle)
    issued = pki.issue(make_csr())
    assert "path validation" in diagnosis(checker, issued, NOW - timedelta(minutes=10))
    assert "path validation" in diagnosis(checker, issued, NOW + timedelta(hours=2))
    assert "issuing chain" in diagnosis(checker, issued, pki.authority.not_after)
    assert "issuing chain" in diagnosis(checker, issued, pki.authority.not_before - timedelta(seconds=1))


def test_a_certificate_that_outlives_its_chain_is_found(pki: Pki) -> None:
    """Even though every element is valid now."""
    issued = replace(pki.issue(make_csr()), not_after=pki.authority.not_after + timedelta(seconds=1))
    assert "outlives" in diagnosis(PathChecker(pki.authority, pki.bundle), issued)


@pytest.mark.parametrize("purposes", [(ExtendedKeyUsageOID.SERVER_AUTH,), (ExtendedKeyUsageOID.CLIENT_AUTH,), (), None])
def test_a_certificate_for_one_direction_is_found(pki: Pki, purposes: tuple[x509.ObjectIdentifier, ...] | None) -> None:
    """A workload is client and server."""
    good = pki.issue(make_csr())
    builder = x509.CertificateBuilder(
        good.certificate.issuer, good.certificate.subject, good.certificate.public_key(), good.serial
    )
    builder = builder.not_valid_before(good.not_before).not_valid_after(good.not_after)
    for extension in good.certificate.extensions:
        if not isinstance(extension.value, x509.ExtendedKeyUsage):
            builder = builder.add_extension(extension.value, extension.critical)
    if purposes:
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    elif purposes == ():
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
    narrow = replace(good, certificate=builder.sign(pki.issuing_key, hashes.SHA256()))
    assert "path validation" in diagnosis(PathChecker(pki.authority, pki.bundle), narrow)


# Chains that others made


def made_elsewhere(depth: int, *, rsa_bits: int = 0, plain: bool = False) -> Pki:
    """A root and `depth` authorities below it; `plain` ones have no key identifiers, as old company roots do."""
    keys: list[AuthorityPrivateKey] = [
        rsa.generate_private_key(65537, rsa_bits) if rsa_bits else ec.generate_private_key(ec.SECP256R1())
        for _ in range(depth + 1)
    ]
    chain: list[x509.Certificate] = []
    for level, key in enumerate(keys):
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"level {level}")])
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(chain[-1].subject if chain else name)
            .public_key(key.public_key())
            .serial_number(1_000 + level)
            .not_valid_before(NOW - timedelta(days=1))
            .not_valid_after(NOW + timedelta(days=365))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(authority_key_usage(), critical=True)
        )
        if not plain:
            builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        chain.append(builder.sign(keys[max(level - 1, 0)], hashes.SHA256()))
    root, *below = chain
    issuing, *above = [*below[::-1], root]
    return Pki(
        root_key=keys[0],
        issuing_key=keys[-1],
        root=root,
        authority=Authority.of(issuing, tuple(above), TRUST_DOMAIN, authority_id="elsewhere"),
        bundle=TrustBundle.of(TRUST_DOMAIN, (root, make_pki().root)),
    )


@pytest.mark.parametrize("plain", [False, True], ids=["with identifiers", "without"])
@pytest.mark.parametrize("rsa_bits", [0, 2048], ids=["EC", "RSA"])
@pytest.mark.parametrize("depth", [0, 1, 2, 4])
def test_chains_of_any_length_under_several_roots(depth: int, rsa_bits: int, *, plain: bool) -> None:
    """A root that issues itself, and up to four authorities below it: answered as ztunnel reads it, and believed."""
    pki = made_elsewhere(depth, rsa_bits=rsa_bits, plain=plain)
    issued = pki.issue(make_csr())
    chain = cert_chain(issued, pki.authority, pki.bundle)
    checker = PathChecker(pki.authority, pki.bundle)

    assert [1] * (depth + 1) + [2] == [element.count("BEGIN CERTIFICATE") for element in chain]
    check_as_ztunnel(chain, str(IDENTITY))
    for _ in range(2):
        checker.check(issued, now=NOW)
    assert "path validation" in diagnosis(PathChecker(pki.authority, make_pki().bundle), issued)


# An independent implementation: OpenSSL, as Python's ssl module has it


def test_two_workloads_shake_hands_in_both_directions(tmp_path: Path) -> None:
    """L27: OpenSSL accepts both as server and as client, chain and roots as we send them."""
    now = datetime.now(UTC)
    pki = make_pki(now=now)
    server = context(ssl.PROTOCOL_TLS_SERVER, pki, tmp_path / "server", now)
    client = context(ssl.PROTOCOL_TLS_CLIENT, pki, tmp_path / "client", now)
    seen_by_client, seen_by_server = shake_hands(server, client)
    expected = (("URI", str(IDENTITY)),)
    assert (expected, expected) == (seen_by_client["subjectAltName"], seen_by_server["subjectAltName"])


def test_openssl_refuses_a_stranger(tmp_path: Path) -> None:
    """The handshake above can fail."""
    now = datetime.now(UTC)
    server = context(ssl.PROTOCOL_TLS_SERVER, make_pki(now=now), tmp_path / "server", now)
    client = context(ssl.PROTOCOL_TLS_CLIENT, make_pki(now=now), tmp_path / "client", now)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(server, client)


def context(protocol: int, pki: Pki, folder: Path, now: datetime) -> ssl.SSLContext:
    """A TLS context that holds and demands certificates of the authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    issued = pki.issue(make_csr(key), now=now)
    *presented, roots = cert_chain(issued, pki.authority, pki.bundle)
    folder.mkdir()
    (folder / "chain.pem").write_text("".join(presented))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    made = ssl.SSLContext(protocol)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_REQUIRED
    made.verify_flags |= ssl.VERIFY_X509_STRICT
    made.load_verify_locations(cadata=roots)
    made.load_cert_chain(folder / "chain.pem", folder / "key.pem")
    return made


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[dict[str, object], dict[str, object]]:
    """A handshake in memory: what the client saw of the server, and the server of the client."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        server.wrap_bio(to_server, to_client, server_side=True),
        client.wrap_bio(to_client, to_server, server_side=False),
    ]
    waiting = list(sides)
    for _ in range(10):
        for side in list(waiting):
            try:
                side.do_handshake()
                waiting.remove(side)
            except ssl.SSLWantReadError:
                continue
    assert not waiting
    return sides[1].getpeercert(), sides[0].getpeercert()
