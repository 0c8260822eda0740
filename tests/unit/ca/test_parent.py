"""The user's files of a parent: which set it is, what leads to what, and what it costs."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from itertools import permutations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from app.ca.authority import Authority
from app.ca.bundle import TrustBundle
from app.ca.csr import parse_csr
from app.ca.issuance import prepare
from app.ca.parent import CERT_MANAGER_FILES, ISTIO_FILES, MAX_FILE_BYTES, Parent, parse_parent, recognise
from app.ca.profile import TtlGrant
from app.ca.response import PathChecker, cert_chain, check_as_ztunnel
from app.ca.signing import sign_bytes
from app.errors import AppError, ErrorCode
from tests.support.certificates import IDENTITY, LIMITS, PROFILE, TRUST_DOMAIN, make_csr, serial, verified
from tests.support.istio_files import (
    IstioSet,
    cert_managers,
    certificate,
    istiods_own,
    key_pem,
    name,
    pem,
    plugged_in,
    rsa_key,
    small_plugged_in,
    usage,
)

NOW = datetime.now(UTC)
WHERE = "/etc/cacerts"


def read(found: IstioSet | dict[str, bytes], now: datetime = NOW) -> Parent:
    files = found.files if isinstance(found, IstioSet) else found
    kind = recognise({file: len(data) for file, data in files.items()}, where=WHERE)
    contents = {file: data for file, data in files.items() if file != kind.key}
    return parse_parent(contents, kind, trust_domain=TRUST_DOMAIN, now=now, where=WHERE)


def refusal(found: IstioSet | dict[str, bytes], now: datetime = NOW) -> str:
    with pytest.raises(AppError) as failure:
        read(found, now)
    assert failure.value.code in (ErrorCode.INVALID, ErrorCode.MALFORMED)
    return failure.value.detail


def issues_for_ztunnel(parent: Parent, found: IstioSet) -> list[str]:
    """What a ztunnel gets from an authority of these files, after every check that we make before it leaves."""
    above = (*parent.chain, parent.root) if parent.certificate != parent.root else ()
    authority = Authority.of(parent.certificate, above, TRUST_DOMAIN, authority_id="files")
    bundle = TrustBundle.of(TRUST_DOMAIN, parent.roots)
    prepared = prepare(
        IDENTITY, parse_csr(make_csr(), LIMITS), TtlGrant(seconds=3600),
        authority=authority, profile=PROFILE, now=NOW, serial=serial(5),
    )  # fmt: skip
    issued = verified(prepared, sign_bytes(found.key, prepared.tbs))
    chain = cert_chain(issued, authority, bundle)
    check_as_ztunnel(chain, str(IDENTITY))
    checker = PathChecker(authority, bundle)
    checker.check(issued, now=NOW)
    checker.check(issued, now=NOW)  # the second takes the short way
    return chain


def test_istiods_own_root_issues_by_itself() -> None:
    """Secret istio-ca-secret: RSA, no cRLSign, empty files beside it; leaf and root are the whole answer."""
    found = istiods_own()
    parent = read(found)

    assert ((), found.root, (found.root,)) == (parent.chain, parent.root, parent.roots)
    assert ["no cRLSign", "issues by itself", "RSA key of 2048 bits"] == [
        next(part for part in ("no cRLSign", "issues by itself", "RSA key of 2048 bits") if part in warning)
        for warning in parent.warnings
    ]
    assert 2 == len(issues_for_ztunnel(parent, found))


def test_plugged_in_certificates_of_istios_makefile() -> None:
    """Secret cacerts: RSA 4096, the root also in the chain file, key usages beyond need; no cRLSign is a warning."""
    found = plugged_in()
    parent = read(found)

    assert (found.issuing, (), found.root) == (parent.certificate, parent.chain, parent.root)
    assert any("no cRLSign" in warning for warning in parent.warnings)
    assert not any("issues by itself" in warning for warning in parent.warnings)
    assert 3 == len(issues_for_ztunnel(parent, found))


def test_a_set_of_cert_manager() -> None:
    """tls.crt holds the chain, ca.crt the root."""
    found = cert_managers(small_plugged_in(depth=2))
    parent = read(found)

    assert (found.issuing, 1, found.root) == (parent.certificate, len(parent.chain), parent.root)
    assert () == parent.warnings
    assert 4 == len(issues_for_ztunnel(parent, found))


def test_the_order_of_the_chain_is_found_whatever_it_is() -> None:
    """Also with duplicates and with line ends of another system."""
    found = small_plugged_in(depth=3)
    chain = x509.load_pem_x509_certificates(found.files["cert-chain.pem"])
    expected = read(found)
    for order in permutations(chain):
        files = {**found.files, "cert-chain.pem": pem(*order, order[0]).replace(b"\n", b"\r\n")}
        assert expected == read(files)


def test_several_roots_are_all_trusted_and_unusable_ones_are_named() -> None:
    """A root that expired, one that is no root and one that is no authority are left out, each with a sentence."""
    found = small_plugged_in()
    other = small_plugged_in()
    key = ec.generate_private_key(ec.SECP256R1())
    expired = certificate(name(O="old"), key, days=10, not_before=NOW - timedelta(days=20))
    roots = pem(expired, other.root, other.issuing, found.root, found.root)
    parent = read({**found.files, "root-cert.pem": roots})

    assert {found.root, other.root} == set(parent.roots)
    assert found.root == parent.root
    assert 2 == len(parent.warnings)
    assert "O=old" in parent.warnings[0]
    assert "expired on" in parent.warnings[0]
    assert "is not a root" in parent.warnings[1]


@pytest.mark.parametrize(
    ("remove", "expected"),
    [
        ("ca-key.pem", "/etc/cacerts/ca-key.pem is missing or empty"),
        ("ca-cert.pem", "/etc/cacerts/ca-cert.pem is missing or empty"),
        ("root-cert.pem", "/etc/cacerts/root-cert.pem is missing or empty"),
        ("cert-chain.pem", "/etc/cacerts/cert-chain.pem is missing or empty"),
    ],
)
def test_a_partial_set_is_refused_and_the_missing_file_named(remove: str, expected: str) -> None:
    """Whether it is absent or empty."""
    found = small_plugged_in(depth=2)
    files = dict(found.files)
    if remove == "root-cert.pem":
        files["cert-chain.pem"] = pem(*x509.load_pem_x509_certificates(files["cert-chain.pem"])[:-1])
    del files[remove]
    assert expected in refusal(files)
    assert expected in refusal({**files, remove: b""})
    assert remove.endswith("key.pem") or expected in refusal({**files, remove: b" \n"})


def test_no_set_and_two_sets_are_refused() -> None:
    """Nothing is guessed."""
    found = small_plugged_in()
    assert "holds neither ca-cert.pem" in refusal({})
    assert "holds two sets" in refusal({**found.files, **cert_managers(found).files})


def test_files_that_are_too_large_are_refused_before_they_are_parsed() -> None:
    """By their size on disk."""
    found = small_plugged_in()
    assert "larger than" in refusal({**found.files, "root-cert.pem": b"x" * (MAX_FILE_BYTES + 1)})


@pytest.mark.parametrize(
    "junk", [b"\xff\xfe", b"hello", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_what_is_not_a_certificate_is_named_by_its_file(junk: bytes) -> None:
    """Half a file looks like this too."""
    found = small_plugged_in()
    assert "/etc/cacerts/cert-chain.pem" in refusal({**found.files, "cert-chain.pem": junk})


def test_a_key_among_the_certificates_is_refused_and_not_repeated() -> None:
    """The file holds what it should not."""
    found = small_plugged_in()
    sentence = refusal({**found.files, "cert-chain.pem": key_pem(found.key)})
    assert "PRIVATE" not in sentence


def test_a_chain_to_another_root_than_the_trusted_ones_is_refused() -> None:
    """The roots' file decides who is trusted, not the chain's."""
    found, other = small_plugged_in(), small_plugged_in(cluster="other")
    assert "does not reach a root" in refusal(
        {**found.files, "cert-chain.pem": pem(found.issuing), "root-cert.pem": pem(other.root)}
    )
    assert "which is not in /etc/cacerts/root-cert.pem" in refusal({**found.files, "root-cert.pem": pem(other.root)})


def test_an_expired_chain_is_refused() -> None:
    """Whichever element it is."""
    found = small_plugged_in()
    assert "is valid only from" in refusal(found, NOW + timedelta(days=600))
    assert "holds no root that is valid" in refusal(found, NOW + timedelta(days=1200))


def test_an_authority_of_another_trust_domain_is_refused() -> None:
    """Its SPIFFE ID says whose it is; without one anybody may say so."""
    key = ec.generate_private_key(ec.SECP256R1())
    for uri, good in (("spiffe://cluster.local", True), ("spiffe://elsewhere.example", False)):
        root = certificate(name(O="x"), key, uri=uri)
        files = {"ca-cert.pem": pem(root), "ca-key.pem": key_pem(key)}
        if good:
            assert root == read(files).root
        else:
            assert "elsewhere.example" in refusal(files)


def test_keys_and_hashes_that_peers_do_not_accept_are_refused() -> None:
    """RSA of 1024 bits."""
    key = rsa_key(1024)
    root = certificate(name(O="weak"), key, key_usage=usage())
    assert "has a key that is not usable" in refusal({"ca-cert.pem": pem(root), "ca-key.pem": key_pem(key)})


def test_a_cross_signed_root_takes_the_way_to_a_trusted_root() -> None:
    """The same root by itself and signed by an older one: only the trusted way counts."""
    found = small_plugged_in()
    root_key = ec.generate_private_key(ec.SECP256R1())
    new_root = certificate(name(O="new"), root_key, days=2000)
    old = small_plugged_in()
    crossed = certificate(name(O="new"), root_key, old.root, ec.generate_private_key(ec.SECP256R1()))
    issuing_key = ec.generate_private_key(ec.SECP256R1())
    issuing = certificate(name(CN="i"), issuing_key, new_root, root_key, path_length=0, days=300)
    parent = read(
        {
            "ca-cert.pem": pem(issuing),
            "ca-key.pem": key_pem(issuing_key),
            "cert-chain.pem": pem(issuing, crossed, new_root),
            "root-cert.pem": pem(new_root, found.root),
        }
    )
    assert new_root == parent.root
    assert {new_root, found.root} == set(parent.roots)
    assert ["was left out"] == [warning[-12:] for warning in parent.warnings]


def test_a_set_without_end_does_not_keep_us_long() -> None:
    """Certificates that issue each other in a circle are each tried once."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(6)]
    circle = [
        certificate(name(CN="same"), key, certificate(name(CN="same"), other), other)
        for key in keys
        for other in keys
        if key is not other
    ]
    random.Random(1).shuffle(circle)
    files = {"ca-cert.pem": pem(circle[0]), "ca-key.pem": b"k", "cert-chain.pem": pem(*circle[1:])}
    assert "does not reach a root" in refusal(files)


def test_the_files_of_each_set() -> None:
    """The names that istiod reads."""
    assert ISTIO_FILES == recognise({"ca-cert.pem": 1, "ca-key.pem": 1}, where=WHERE)
    assert CERT_MANAGER_FILES == recognise({"tls.crt": 1, "tls.key": 1, "ca.crt": 1, "ca-cert.pem": 0}, where=WHERE)
