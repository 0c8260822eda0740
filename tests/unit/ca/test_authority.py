"""Root and issuing certificates, and the values made of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from app.ca.authority import Authority
from app.ca.authority_lint import authority_key_usage, check_chain, examine_chain, lint_authority
from app.ca.bundle import TrustBundle
from app.ca.response import PathChecker
from app.errors import AppError, ErrorCode
from app.identity.spiffe import TrustDomain
from tests.support.certificates import NOW, TRUST_DOMAIN, Pki, create_issuing, create_root, make_csr, make_pki, serial


@pytest.fixture(scope="module")
def pki() -> Pki:
    return make_pki()


def extension(certificate: x509.Certificate, kind: type[x509.ExtensionType]) -> x509.Extension[x509.ExtensionType]:
    return certificate.extensions.get_extension_for_class(kind)


def test_basic_constraints_and_key_usage(pki: Pki) -> None:
    """C1, C2: path length 1 for the root, 0 for the issuing authority; keyCertSign and cRLSign, nothing else."""
    for certificate, path_length in ((pki.root, 1), (pki.authority.certificate, 0)):
        constraints, usage = extension(certificate, x509.BasicConstraints), extension(certificate, x509.KeyUsage)
        assert (True, x509.BasicConstraints(True, path_length)) == (constraints.critical, constraints.value)
        expected = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        assert (True, expected) == (usage.critical, usage.value)


def test_the_name_is_the_trust_domains_spiffe_id(pki: Pki) -> None:
    """C3: exactly one URI name, without a path."""
    for certificate in (pki.root, pki.authority.certificate):
        names = extension(certificate, x509.SubjectAlternativeName).value
        assert [x509.UniformResourceIdentifier("spiffe://cluster.local")] == list(names)


def test_key_identifiers_link_the_chain(pki: Pki) -> None:
    """C4: the issuing authority's issuer key id is the root's key id, and both are their keys'."""
    for certificate in (pki.root, pki.authority.certificate):
        by_key = x509.SubjectKeyIdentifier.from_public_key(certificate.public_key())
        assert by_key == extension(certificate, x509.SubjectKeyIdentifier).value
        issuer_id = extension(certificate, x509.AuthorityKeyIdentifier).value.key_identifier
        assert extension(pki.root, x509.SubjectKeyIdentifier).value.digest == issuer_id


def test_every_generation_has_its_own_subject(pki: Pki) -> None:
    """C5: verifiers look up issuers and revocation lists by name, so names differ and children repeat them exactly."""
    again = create_root(TRUST_DOMAIN, pki.root_key, now=NOW, serial=serial(3))
    assert again.subject != pki.root.subject
    assert pki.authority.certificate.subject != pki.root.subject
    assert pki.root.subject.public_bytes() == pki.authority.certificate.issuer.public_bytes()


def test_no_purposes_are_written(pki: Pki) -> None:
    """C7: extended key usage is absent."""
    for certificate in (pki.root, pki.authority.certificate):
        with pytest.raises(x509.ExtensionNotFound):
            extension(certificate, x509.ExtendedKeyUsage)


def test_lifetimes_nest() -> None:
    """C8: ten years and one year, last second included; an issuing authority never outlives its root."""
    pki = make_pki()
    last = timedelta(seconds=1)
    assert NOW + timedelta(days=3650) - last == pki.root.not_valid_after_utc
    assert NOW + timedelta(days=365) - last == pki.authority.certificate.not_valid_after_utc
    short = make_pki(root_lifetime=timedelta(days=30))
    assert short.root.not_valid_after_utc == short.authority.certificate.not_valid_after_utc
    assert pki.root.not_valid_before_utc <= pki.authority.certificate.not_valid_before_utc


def test_an_expired_root_makes_nothing() -> None:
    """Refused instead of making an authority that nobody can use."""
    pki = make_pki(root_lifetime=timedelta(days=1))
    with pytest.raises(AppError) as caught:
        create_issuing(
            pki.issuing_key.public_key(),
            pki.root,
            pki.root_key,
            trust_domain=TRUST_DOMAIN,
            now=NOW + timedelta(days=1),
            serial=serial(3),
        )
    assert ErrorCode.INVALID is caught.value.code


def test_the_key_that_signs_must_be_the_roots(pki: Pki) -> None:
    """C9: a mix-up of keys makes no certificate."""
    with pytest.raises(AppError):
        create_issuing(
            pki.issuing_key.public_key(),
            pki.root,
            pki.issuing_key,
            trust_domain=TRUST_DOMAIN,
            now=NOW,
            serial=serial(3),
        )


def test_keys_on_other_curves_are_refused(pki: Pki) -> None:
    """As root and as issuing authority."""
    odd = ec.generate_private_key(ec.SECP521R1())
    with pytest.raises(AppError):
        create_root(TRUST_DOMAIN, odd, now=NOW, serial=serial(3))
    with pytest.raises(AppError):
        create_issuing(odd.public_key(), pki.root, pki.root_key, trust_domain=TRUST_DOMAIN, now=NOW, serial=serial(3))


def test_a_long_trust_domain_fits() -> None:
    """The longest trust domain has 255 characters; a subject's organisation has 64."""
    trust_domain = TrustDomain.parse("x" * 255)
    root = make_pki(trust_domain=trust_domain).root
    assert [] == lint_authority(root, trust_domain, path_length=1)


def test_an_authority_works_out_what_issuing_needs(pki: Pki) -> None:
    """The chain, its common validity, and the keys that nobody else may use."""
    authority = pki.authority
    assert (authority.certificate,) == authority.intermediates
    assert pki.root == authority.root
    assert extension(authority.certificate, x509.SubjectKeyIdentifier).value.digest == authority.key_id
    assert min(pki.root.not_valid_after_utc, authority.certificate.not_valid_after_utc) == authority.not_after
    assert 2 == len(authority.own_keys)


def test_a_root_that_issues_by_itself_has_no_intermediates() -> None:
    """The answer then is the leaf and the roots."""
    key = ec.generate_private_key(ec.SECP256R1())
    root = create_root(TRUST_DOMAIN, key, now=NOW, serial=serial(1))
    authority = Authority.of(root, (), TRUST_DOMAIN, authority_id="root")
    assert ((), (), root) == (authority.intermediates, authority.intermediate_pems, authority.root)


# Chains that do not hold


def common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def foreign_root(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
    *,
    subject: x509.Name | None = None,
    issuer: tuple[x509.Certificate, rsa.RSAPrivateKey] | None = None,
    **changes: object,
) -> x509.Certificate:
    """An authority somebody else made, good but for the changes; a root unless there is an issuer."""
    subject = common_name("corporate") if subject is None else subject
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(serial(9))
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=100))
    )
    wanted = {
        "constraints": x509.BasicConstraints(True, None),
        "usage": authority_key_usage(),
        "key_id": x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
        **changes,
    }
    for kind, value in wanted.items():
        if value is not None:
            builder = builder.add_extension(value, critical=kind in ("constraints", "usage", "more"))
    return builder.sign(issuer[1] if issuer else key, hashes.SHA256())


def test_a_foreign_root_is_taken_as_it_is() -> None:
    """An RSA root without a SPIFFE ID, as istiod makes for itself, issues, and what it issues verifies."""
    key = rsa.generate_private_key(65537, 2048)
    usage = x509.KeyUsage(False, False, False, False, False, True, False, False, False)
    root = foreign_root(key, usage=usage)
    authority = Authority.of(root, (), TRUST_DOMAIN, authority_id="istiod")
    pki = replace(make_pki(), issuing_key=key, root=root, authority=authority)
    issued = pki.issue(make_csr())
    key.public_key().verify(
        issued.certificate.signature, issued.certificate.tbs_certificate_bytes, PKCS1v15(), hashes.SHA256()
    )
    PathChecker(authority, TrustBundle.of(TRUST_DOMAIN, (root,))).check(issued, now=NOW)
    (cost,) = examine_chain((root,), TRUST_DOMAIN).warnings
    assert "no cRLSign" in cost
    assert "only once it has expired" in cost


def test_a_foreign_chain_of_three_levels_issues() -> None:
    """Corporate chains are longer than ours; each intermediate stands alone in the answer."""
    keys = [rsa.generate_private_key(65537, 2048) for _ in range(3)]
    root = foreign_root(keys[0])
    middle = foreign_root(keys[1], issuer=(root, keys[0]), subject=common_name("middle"))
    lowest = foreign_root(keys[2], issuer=(middle, keys[1]), subject=common_name("lowest"))
    authority = Authority.of(lowest, (middle, root), TRUST_DOMAIN, authority_id="corporate")
    assert ((lowest, middle), root) == (authority.intermediates, authority.root)
    issued = replace(make_pki(), issuing_key=keys[2], root=root, authority=authority).issue(make_csr())
    PathChecker(authority, TrustBundle.of(TRUST_DOMAIN, (root,))).check(issued, now=NOW)


def test_an_authority_without_a_key_identifier_gets_the_computed_one() -> None:
    """By method 1 of RFC 5280, so that children still name a key; the warning says what the lack costs."""
    key = ec.generate_private_key(ec.SECP256R1())
    root = foreign_root(key, key_id=None)
    by_key = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest
    assert by_key == Authority.of(root, (), TRUST_DOMAIN, authority_id="root").key_id
    (cost,) = examine_chain((root,)).warnings
    assert "by name alone" in cost


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"purposes": x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])}, "limited to purposes"),
        ({"names": x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://other")])}, "trust domain"),
        ({"more": x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")}, "critical"),
    ],
)
def test_foreign_authorities_that_peers_would_refuse(changes: dict[str, object], error: str) -> None:
    """An error, so that the chain is not used at all."""
    findings = examine_chain((foreign_root(ec.generate_private_key(ec.SECP256R1()), **changes),), TRUST_DOMAIN)
    (found,) = findings.errors
    assert error in found


def test_name_constraints_are_a_warning() -> None:
    """They may be harmless, and the sentence says how to find out."""
    constraints = x509.NameConstraints([x509.DNSName("example")], None)
    findings = examine_chain((foreign_root(ec.generate_private_key(ec.SECP256R1()), more=constraints),), TRUST_DOMAIN)
    assert () == findings.errors
    assert "name constraints" in findings.warnings[0]


@pytest.mark.parametrize(
    "key", [rsa.generate_private_key(65537, 1024), ec.generate_private_key(ec.SECP521R1())], ids=["RSA-1024", "P-521"]
)
def test_foreign_authorities_with_keys_that_we_do_not_use(key: rsa.RSAPrivateKey) -> None:
    """Too weak, or on a curve that not every peer has."""
    (found,) = examine_chain((foreign_root(key),)).errors
    assert "a key that is not usable" in found


NO_CERT_SIGN = x509.KeyUsage(True, False, False, False, False, False, True, False, False)


@pytest.mark.parametrize(
    "changes",
    [
        {"constraints": None},
        {"constraints": x509.BasicConstraints(False, None)},
        {"usage": None},
        {"usage": NO_CERT_SIGN},
        {"subject": x509.Name([])},
    ],
)
def test_certificates_that_are_no_authority(changes: dict[str, object]) -> None:
    """Each refused for one missing thing."""
    with pytest.raises(AppError) as caught:
        check_chain([foreign_root(ec.generate_private_key(ec.SECP256R1()), **changes)])
    assert ErrorCode.INVALID is caught.value.code


def test_chains_that_do_not_hold_together(pki: Pki) -> None:
    """Empty, of strangers, the wrong way round, without a root, too deep."""
    leaf = pki.issue(make_csr()).certificate
    issuing = pki.authority.certificate
    stranger = make_pki().root
    for chain in ([], [issuing, stranger], [pki.root, issuing], [issuing], [leaf, issuing, pki.root]):
        with pytest.raises(AppError):
            check_chain(chain)
    with pytest.raises(AppError):
        Authority.of(issuing, (stranger,), TRUST_DOMAIN, authority_id="i")


def test_a_path_length_that_is_used_up(pki: Pki) -> None:
    """An authority below an issuing authority with path length 0 is refused."""
    key = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(AppError) as caught:
        create_issuing(
            key.public_key(),
            pki.authority.certificate,
            pki.issuing_key,
            trust_domain=TRUST_DOMAIN,
            now=NOW,
            serial=serial(5),
        )
    assert ErrorCode.INVALID is caught.value.code


@pytest.mark.parametrize(
    ("trust_domain", "path_length"), [(TrustDomain("elsewhere"), 0), (TRUST_DOMAIN, 1)], ids=["trust domain", "path"]
)
def test_the_lint_of_authorities_finds_deviations(pki: Pki, trust_domain: TrustDomain, path_length: int) -> None:
    """From what was meant, and from our shape."""
    assert [] == lint_authority(pki.authority.certificate, TRUST_DOMAIN, path_length=0)
    assert 1 == len(lint_authority(pki.authority.certificate, trust_domain, path_length=path_length))
    foreign = foreign_root(ec.generate_private_key(ec.SECP256R1()))
    assert ["the extensions are not exactly the expected ones"] == lint_authority(foreign, TRUST_DOMAIN, path_length=1)
