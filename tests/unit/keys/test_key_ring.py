"""The key ring signs what its authorities may sign, decided from the bytes alone, and gives out no key."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_public_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from app.authority.authorities.authority_ports import StoredAuthority
from app.ca.authority import Authority
from app.ca.authority_issuance import (
    assemble_authority,
    assemble_request,
    prepare_issuing,
    prepare_request,
    prepare_root,
)
from app.ca.csr import parse_csr
from app.ca.issuance import PreparedSvid, prepare
from app.ca.profile import TtlGrant, max_workload_lifetime
from app.ca.serving_names import ServingNames
from app.ca.signing import capture, replay
from app.errors import AppError, ErrorCode
from app.identity.spiffe import SpiffeId, TrustDomain
from app.keys.key_ring import KeyRing
from tests.support.certificates import (
    IDENTITY,
    LIMITS,
    NOW,
    PROFILE,
    TRUST_DOMAIN,
    Pki,
    make_csr,
    make_pki,
    serial,
    verified,
)
from tests.support.key_keeper import cheap_sealer

CAP = max_workload_lifetime(LIMITS)
OWN = SpiffeId.parse("spiffe://cluster.local/ns/gatehouse-system/sa/authority")


def new_ring(**changes: object) -> KeyRing:
    return KeyRing(cheap_sealer(), **{"trust_domain": TRUST_DOMAIN, "now": lambda: NOW, **changes})


def stored(authority: Authority, *, key_ref: str = "", sealed: bytes = b"") -> StoredAuthority:
    pems = [one.public_bytes(Encoding.PEM).decode() for one in (authority.certificate, *authority.intermediates[1:])]
    return StoredAuthority(
        id="issuing",
        role="issuing",
        state="active",
        certificate_pem=pems[0],
        chain_pem="".join(pems[1:]),
        sealed_key=sealed,
        key_ref=key_ref,
        created_at=NOW,
    )


def key_file(folder: Path, key: object, form: PrivateFormat = PrivateFormat.PKCS8) -> Path:
    file = folder / "ca-key.pem"
    file.write_bytes(key.private_bytes(Encoding.PEM, form, NoEncryption()))
    file.chmod(0o600)
    return file


@pytest.fixture(scope="module", params=["P-256", "P-384", "RSA-2048"])
def pki(request: pytest.FixtureRequest) -> Pki:
    curve = ec.SECP384R1() if request.param == "P-384" else None
    return make_pki(curve=curve, rsa_bits=2048 if request.param.startswith("RSA") else 0)


@pytest.fixture
def ring(pki: Pki, tmp_path: Path) -> KeyRing:
    made = new_ring()
    made.open_authority(stored(pki.authority, key_ref=f"file:{key_file(tmp_path, pki.issuing_key)}"), max_lifetime=CAP)
    return made


def prepared(pki: Pki, *, identity: SpiffeId = IDENTITY, csr: str | None = None, **changes: object) -> PreparedSvid:
    arguments = {
        "authority": pki.authority,
        "profile": PROFILE,
        "now": NOW,
        "serial": serial(7),
        "grant": TtlGrant(seconds=3600),
        **changes,
    }
    return prepare(identity, parse_csr(csr or make_csr(), LIMITS), **arguments)


def sign(ring: KeyRing, tbs: bytes) -> bytes:
    (answer,) = ring.sign_workloads("issuing", [tbs])
    if isinstance(answer, AppError):
        raise answer
    return answer


def refusal(ring: KeyRing, tbs: bytes) -> str:
    with pytest.raises(AppError) as caught:
        sign(ring, tbs)
    assert ErrorCode.INTERNAL is caught.value.code
    assert "the signer refused what it was to sign" == caught.value.detail
    return caught.value.diagnosis


def test_certificates_of_the_profile_are_signed(pki: Pki, ring: KeyRing) -> None:
    """Under EC and RSA authorities, for EC and RSA keys, and with host names for Gatehouse itself."""
    names = ServingNames.parse(["localhost", "gatehouse.example", "127.0.0.1", "::1"])
    for each in (
        prepared(pki),
        prepared(pki, csr=make_csr(rsa.generate_private_key(65537, 2048))),
        prepared(pki, identity=OWN, serving_names=names),
        prepared(pki, grant=TtlGrant(seconds=LIMITS.max_ttl_seconds)),
    ):
        assert each.tbs == verified(each, sign(ring, each.tbs)).certificate.tbs_certificate_bytes


def test_a_batch_has_an_answer_for_each(pki: Pki, ring: KeyRing) -> None:
    """One bad request does not fail its neighbours."""
    good = prepared(pki)
    first, second, third = ring.sign_workloads("issuing", [good.tbs, b"garbage", good.tbs])
    assert isinstance(second, AppError)
    for signature in (first, third):
        verified(good, signature)


# What is tampered with between the process that builds and the one that signs


def resign_as(pki: Pki, **changes: object) -> bytes:
    """The to-be-signed bytes of a certificate that is of the profile but for the changes."""
    leaf = ec.generate_private_key(ec.SECP256R1()).public_key()
    values = {
        "subject": x509.Name([]),
        "issuer": pki.authority.certificate.subject,
        "key": leaf,
        "serial": serial(7),
        "before": NOW - timedelta(seconds=LIMITS.backdate_seconds),
        "after": NOW + timedelta(hours=1),
        **changes,
    }
    extensions = {
        "usage": (x509.KeyUsage(True, *[False] * 8), True),
        "purposes": (x509.ExtendedKeyUsage([x509.OID_SERVER_AUTH, x509.OID_CLIENT_AUTH]), False),
        "constraints": (x509.BasicConstraints(False, None), True),
        "key_id": (x509.SubjectKeyIdentifier.from_public_key(values["key"]), False),
        "issuer_id": (x509.AuthorityKeyIdentifier(pki.authority.key_id, None, None), False),
        "names": (x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(IDENTITY))]), True),
        **changes.get("extensions", {}),
    }
    builder = (
        x509.CertificateBuilder(values["issuer"], values["subject"], values["key"], values["serial"])
        .not_valid_before(values["before"])
        .not_valid_after(values["after"])
    )
    for extension in extensions.values():
        if extension is not None:
            builder = builder.add_extension(extension[0], critical=extension[1])
    return capture(builder, changes.get("signer", pki.authority.public_key))[0]


def uris(*names: str) -> tuple[x509.SubjectAlternativeName, bool]:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name) for name in names]), True


def name(value: x509.GeneralName) -> tuple[x509.SubjectAlternativeName, bool]:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(IDENTITY)), value]), True


def usage(**changes: bool) -> tuple[x509.KeyUsage, bool]:
    kinds = [
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ]
    return x509.KeyUsage(**{kind: changes.get(kind, kind == "digital_signature") for kind in kinds}), True


def purposes(*oids: x509.ObjectIdentifier) -> tuple[x509.ExtendedKeyUsage, bool]:
    return x509.ExtendedKeyUsage(oids), False


_UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
TAMPERED: dict[str, Callable[[Pki], dict[str, object]]] = {
    "CA:TRUE": lambda _: {"extensions": {"constraints": (x509.BasicConstraints(True, None), True)}},
    "CA:TRUE, path length 0": lambda _: {"extensions": {"constraints": (x509.BasicConstraints(True, 0), True)}},
    "no basic constraints": lambda _: {"extensions": {"constraints": None}},
    "basic constraints not critical": lambda _: {
        "extensions": {"constraints": (x509.BasicConstraints(False, None), False)}
    },
    "keyCertSign": lambda _: {"extensions": {"usage": usage(key_cert_sign=True)}},
    "cRLSign": lambda _: {"extensions": {"usage": usage(crl_sign=True)}},
    "keyEncipherment": lambda _: {"extensions": {"usage": usage(key_encipherment=True)}},
    "no key usage": lambda _: {"extensions": {"usage": None}},
    "key usage not critical": lambda _: {"extensions": {"usage": (usage()[0], False)}},
    "no purposes": lambda _: {"extensions": {"purposes": None}},
    "code signing": lambda _: {
        "extensions": {"purposes": purposes(x509.OID_SERVER_AUTH, x509.OID_CLIENT_AUTH, x509.OID_CODE_SIGNING)}
    },
    "any purpose": lambda _: {"extensions": {"purposes": purposes(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)}},
    "client only": lambda _: {"extensions": {"purposes": purposes(x509.OID_CLIENT_AUTH)}},
    "wrong subject key id": lambda _: {"extensions": {"key_id": (x509.SubjectKeyIdentifier(bytes(20)), False)}},
    "no subject key id": lambda _: {"extensions": {"key_id": None}},
    "another authority's key id": lambda _: {
        "extensions": {"issuer_id": (x509.AuthorityKeyIdentifier(bytes(20), None, None), False)}
    },
    "no names": lambda _: {"extensions": {"names": None}},
    "names not critical": lambda _: {"extensions": {"names": (uris(str(IDENTITY))[0], False)}},
    "two identities": lambda _: {"extensions": {"names": uris(str(IDENTITY), str(OWN))}},
    "another trust domain": lambda _: {"extensions": {"names": uris("spiffe://elsewhere/ns/shop/sa/cart")}},
    "no Istio identity": lambda _: {"extensions": {"names": uris("spiffe://cluster.local/shop/cart")}},
    "the trust domain itself": lambda _: {"extensions": {"names": uris("spiffe://cluster.local")}},
    "no SPIFFE ID": lambda _: {"extensions": {"names": uris("https://cluster.local/ns/shop/sa/cart")}},
    "upper case": lambda _: {"extensions": {"names": uris("spiffe://Cluster.local/ns/shop/sa/cart")}},
    "a host name": lambda _: {"extensions": {"names": name(x509.DNSName("istiod.istio-system.svc"))}},
    "an e-mail address": lambda _: {"extensions": {"names": name(x509.RFC822Name("root@example.com"))}},
    "a certificate policy": lambda _: {
        "extensions": {
            "more": (
                x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier("2.23.140.1.2.1"), None)]),
                False,
            )
        }
    },
    "an unknown extension": lambda _: {"extensions": {"more": (_UNKNOWN, False)}},
    "a subject": lambda _: {"subject": x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "cart")])},
    "another issuer": lambda pki: {"issuer": pki.root.subject},
    "serial 1": lambda _: {"serial": 1},
    "too long a life": lambda _: {"after": NOW - timedelta(seconds=LIMITS.backdate_seconds) + CAP},
    "too long a life, beginning long ago": lambda _: {"before": NOW - CAP},
    "beginning in the future": lambda _: {"before": NOW + timedelta(minutes=2)},
    "expired": lambda _: {"before": NOW - timedelta(hours=2), "after": NOW - timedelta(hours=1)},
    "an authority's key": lambda pki: {"key": pki.authority.public_key},
    "an RSA key of 1024 bits": lambda _: {"key": rsa.generate_private_key(65537, 1024).public_key()},
    "a key on P-521": lambda _: {"key": ec.generate_private_key(ec.SECP521R1()).public_key()},
    "another signature algorithm": lambda pki: {
        "signer": rsa.generate_private_key(65537, 2048).public_key()
        if isinstance(pki.authority.public_key, ec.EllipticCurvePublicKey)
        else ec.generate_private_key(ec.SECP256R1()).public_key()
    },
}


@pytest.mark.parametrize("changes", TAMPERED.values(), ids=TAMPERED.keys())
def test_bar_c_no_broken_profile_is_signed(
    pki: Pki, ring: KeyRing, changes: Callable[[Pki], dict[str, object]]
) -> None:
    """The ring reads what it is to sign; each of these is refused for its own reason."""
    assert refusal(ring, resign_as(pki, **changes(pki)))


def test_the_untampered_profile_is_signed(pki: Pki, ring: KeyRing) -> None:
    """The bytes that the table changes are good by themselves."""
    assert sign(ring, resign_as(pki))


def test_bytes_that_are_no_certificate_are_not_signed(pki: Pki, ring: KeyRing) -> None:
    """Nothing but a strictly encoded to-be-signed certificate: no trailing byte, no text, no certificate list."""
    good = prepared(pki).tbs
    crl = crl_builder(pki)
    for bad in (b"", b"text", good + b"\x00", good[:-1], capture(crl, pki.authority.public_key)[0], bytes(5000)):
        assert refusal(ring, bad)


def test_certificates_stay_within_their_issuers_life(tmp_path: Path) -> None:
    """A certificate that begins before its issuer or outlives it is refused by the ring too."""
    pki = make_pki(issuing_lifetime=timedelta(minutes=30))
    ring = new_ring()
    ring.open_authority(stored(pki.authority, key_ref=f"file:{key_file(tmp_path, pki.issuing_key)}"), max_lifetime=CAP)
    assert "outlives" in refusal(ring, resign_as(pki))
    early = {"before": NOW - timedelta(hours=2), "after": NOW + timedelta(minutes=1)}
    assert "begins before its issuer" in refusal(ring, resign_as(pki, **early))


def test_only_its_own_certificates_name_hosts(pki: Pki, ring: KeyRing) -> None:
    """A workload with a host name could stand in for a server that is not in the mesh."""
    each = prepared(pki, serving_names=ServingNames.parse(["localhost"]))
    assert "only certificates of Gatehouse itself name hosts" in refusal(ring, each.tbs)


# Authorities


def key_of(made: object) -> ec.EllipticCurvePublicKey:
    return load_der_public_key(made.public_key_der)


def make_root(ring: KeyRing, name: str = "root") -> x509.Certificate:
    root = prepare_root(TRUST_DOMAIN, key_of(ring.generate_key(name)), now=NOW, serial=serial(1))
    return assemble_authority(root, ring.sign_authority(name, root.tbs))


def test_a_root_and_an_issuing_authority_are_made_and_issue() -> None:
    """From two keys that nobody ever saw; both stand the next start from their sealed form."""
    ring = new_ring()
    root = make_root(ring)
    made = ring.generate_key("issuing")
    issuing = prepare_issuing(key_of(made), root, trust_domain=TRUST_DOMAIN, now=NOW, serial=serial(2))
    certificate = assemble_authority(issuing, ring.sign_authority("root", issuing.tbs))
    authority = Authority.of(certificate, (root,), TRUST_DOMAIN, authority_id="issuing")
    again = new_ring()
    again.open_authority(stored(authority, sealed=made.sealed), max_lifetime=CAP)
    each = prepared(Pki(root_key=None, issuing_key=None, root=root, authority=authority, bundle=None))
    verified(each, sign(again, each.tbs))


def test_authorities_are_signed_only_for_keys_of_the_ring() -> None:
    """Who can merely ask for signatures cannot become an authority with a key of their own."""
    ring = new_ring()
    root = make_root(ring)
    mine = ec.generate_private_key(ec.SECP256R1()).public_key()
    theirs = prepare_issuing(mine, root, trust_domain=TRUST_DOMAIN, now=NOW, serial=serial(2))
    with pytest.raises(AppError, match="not open here") as caught:
        ring.sign_authority("root", theirs.tbs)
    assert ErrorCode.FAILED_PRECONDITION is caught.value.code


def test_authorities_of_another_shape_are_not_signed() -> None:
    """Another trust domain, a child of a key without certificate, a workload certificate, another issuer's child."""
    ring = new_ring()
    root = make_root(ring)
    child = key_of(ring.generate_key("issuing"))
    elsewhere = TrustDomain("elsewhere")
    other = make_pki()
    wrong = [
        ("root", prepare_issuing(child, root, trust_domain=TRUST_DOMAIN, now=NOW, serial=serial(2)).tbs[:-1]),
        ("root", prepare_root(elsewhere, root.public_key(), now=NOW, serial=serial(3)).tbs),
        ("root", prepare_issuing(child, other.root, trust_domain=TRUST_DOMAIN, now=NOW, serial=serial(2)).tbs),
        ("issuing", prepare_issuing(child, root, trust_domain=TRUST_DOMAIN, now=NOW, serial=serial(2)).tbs),
        ("root", prepared(other).tbs),
        ("root", b"garbage"),
    ]
    for signer, tbs in wrong:
        with pytest.raises(AppError) as caught:
            ring.sign_authority(signer, tbs)
        assert ErrorCode.INTERNAL is caught.value.code


def test_a_root_signs_no_workload_until_it_is_opened_for_it() -> None:
    """A key that only just certified itself has no lifetime granted."""
    ring = new_ring()
    make_root(ring, "issuing")
    (answer,) = ring.sign_workloads("issuing", [b"anything"])
    assert isinstance(answer, AppError)


def test_a_request_is_signed_for_the_own_key_only() -> None:
    """A CSR proves possession; of another's key there is none."""
    ring = new_ring()
    request = prepare_request(TRUST_DOMAIN, key_of(ring.generate_key("issuing")), serial=serial(1))
    assert assemble_request(request, ring.sign_csr("issuing", request.info)).is_signature_valid
    other = prepare_request(TRUST_DOMAIN, ec.generate_private_key(ec.SECP256R1()).public_key(), serial=serial(1))
    for info in (other.info, b"garbage", request.info + b"\x00"):
        with pytest.raises(AppError) as caught:
            ring.sign_csr("issuing", info)
        assert ErrorCode.INTERNAL is caught.value.code


# Revocation lists


def crl_builder(
    pki: Pki, *, issuer: x509.Name | None = None, key_id: bytes | None = None, number: bool = True
) -> x509.CertificateRevocationListBuilder:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer or pki.authority.certificate.subject)
        .last_update(NOW)
        .next_update(NOW + timedelta(days=1))
        .add_extension(x509.AuthorityKeyIdentifier(key_id or pki.authority.key_id, None, None), critical=False)
    )
    if number:
        builder = builder.add_extension(x509.CRLNumber(1), critical=False)
    for serial_number in (serial(1), serial(2)):
        revoked = x509.RevokedCertificateBuilder().serial_number(serial_number).revocation_date(NOW)
        revoked = revoked.add_extension(x509.CRLReason(x509.ReasonFlags.privilege_withdrawn), critical=False)
        builder = builder.add_revoked_certificate(revoked.build())
    return builder


def test_a_revocation_list_is_signed(pki: Pki, ring: KeyRing) -> None:
    """With the authority's name and key, as a list that verifies; an empty one too."""
    builder = crl_builder(pki)
    tbs, _ = capture(builder, pki.authority.public_key)
    crl = replay(builder, pki.authority.public_key, ring.sign_crl("issuing", tbs))
    assert crl.is_signature_valid(pki.authority.public_key)


def test_other_bytes_are_not_signed_as_a_revocation_list(pki: Pki, ring: KeyRing) -> None:
    """Another issuer's list, one without number or key id, and above all no certificate."""
    builders = [
        crl_builder(pki, issuer=pki.root.subject),
        crl_builder(pki, key_id=bytes(20)),
        crl_builder(pki, number=False),
    ]
    bad = [capture(builder, pki.authority.public_key)[0] for builder in builders]
    for tbs in (*bad, prepared(pki).tbs, b"", b"garbage"):
        with pytest.raises(AppError) as caught:
            ring.sign_crl("issuing", tbs)
        assert ErrorCode.INTERNAL is caught.value.code


# Keys at rest


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_the_users_key_files_open(pki: Pki, tmp_path: Path, form: PrivateFormat) -> None:
    """PKCS#8, and PKCS#1 or SEC 1 as OpenSSL and istiod write them."""
    file = key_file(tmp_path, pki.issuing_key, form)
    file.write_bytes(
        b"# made by hand\n-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
        + file.read_bytes()
    )
    ring = new_ring()
    ring.open_authority(stored(pki.authority, key_ref=f"file:{file}"), max_lifetime=CAP)
    ring.probe("issuing")


def refused_open(ring: KeyRing, authority: StoredAuthority) -> str:
    with pytest.raises(AppError) as caught:
        ring.open_authority(authority, max_lifetime=CAP)
    assert ErrorCode.FAILED_PRECONDITION is caught.value.code
    return caught.value.detail


def test_case_123_key_files_that_others_can_read_are_refused(tmp_path: Path) -> None:
    """By mode or by owner; the sentence says what to run."""
    pki = make_pki()
    file = key_file(tmp_path, pki.issuing_key)
    authority = stored(pki.authority, key_ref=f"file:{file}")
    for mode in (0o644, 0o640, 0o604, 0o622):
        file.chmod(mode)
        assert f"run: chmod 600 {file}" in refused_open(new_ring(), authority)
    file.unlink()
    assert "does not exist" in refused_open(new_ring(), authority)
    file.mkdir()
    assert "not a regular file" in refused_open(new_ring(), authority)


def test_key_files_that_hold_no_usable_key_are_refused(tmp_path: Path) -> None:
    """A sentence for each, and none shows what is in the file."""
    pki = make_pki()
    file = key_file(tmp_path, pki.issuing_key)
    authority = stored(pki.authority, key_ref=f"file:{file}")
    good = file.read_bytes()
    encrypted = pki.issuing_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    weak = rsa.generate_private_key(65537, 1024)
    foreign = ec.generate_private_key(ec.SECP256R1())
    pem = [key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) for key in (weak, foreign)]
    for content, reason in (
        (b"", "does not hold one private key"),
        (good + good, "does not hold one private key"),
        (encrypted, "is encrypted"),
        (good.replace(b"MIG", b"MIH"), "damaged"),
        (pem[0], "not usable"),
        (pem[1], "does not belong to its certificate"),
        (bytes(20_000), "larger than"),
    ):
        file.write_bytes(content)
        detail = refused_open(new_ring(), authority)
        assert reason in detail
        assert "MIG" not in detail


def test_keys_that_are_elsewhere_say_so() -> None:
    """An offline root, a token without a module, a key that was never opened."""
    pki, ring = make_pki(), new_ring()
    assert "not here" in refused_open(ring, stored(pki.authority))
    assert "keys.pkcs11.module is not set" in refused_open(ring, stored(pki.authority, key_ref="pkcs11:ca"))
    with pytest.raises(AppError, match="not open"):
        ring.probe("issuing")


def test_a_closed_key_is_forgotten(pki: Pki, ring: KeyRing) -> None:
    """It signs nothing any more; closing twice is no error."""
    ring.close_authority("issuing")
    ring.close_authority("issuing")
    with pytest.raises(AppError, match="not open"):
        sign(ring, prepared(pki).tbs)


def test_an_authority_without_a_certificate_signs_its_request_only() -> None:
    """While its CSR is out, after a restart."""
    made = new_ring().generate_key("issuing")
    waiting = StoredAuthority(
        id="issuing", role="issuing", state="prepared", certificate_pem="", sealed_key=made.sealed, created_at=NOW
    )
    ring = new_ring()
    ring.open_authority(waiting, max_lifetime=CAP)
    request = prepare_request(TRUST_DOMAIN, key_of(made), serial=serial(1))
    ring.sign_csr("issuing", request.info)
    with pytest.raises(AppError, match="no certificate yet"):
        sign(ring, b"anything")
    with pytest.raises(AppError, match="has a key already"):
        ring.generate_key("issuing")


def test_secrets_of_services_are_sealed_but_no_key_of_an_authority_comes_out() -> None:
    """The prefix is the border."""
    ring = new_ring()
    assert b"seed" == ring.unseal("snapshot", ring.seal("snapshot", b"seed"))
    made = ring.generate_key("issuing")
    for act in (
        lambda: ring.unseal("authority:issuing", made.sealed),
        lambda: ring.seal("authority:issuing", b"mine"),
    ):
        with pytest.raises(AppError) as caught:
            act()
        assert ErrorCode.INTERNAL is caught.value.code
    with pytest.raises(AppError, match="does not open"):
        ring.unseal("snapshot", made.sealed)


def test_a_ring_does_not_show_its_keys(ring: KeyRing) -> None:
    """Not in a repr, not in a pickle."""
    assert "KeyRing(***)" == repr(ring)
    with pytest.raises(TypeError):
        ring.__reduce__()


def test_the_clock_of_the_ring_decides(pki: Pki, tmp_path: Path) -> None:
    """A process that builds with a wrong clock gets nothing."""
    later: list[datetime] = [NOW + timedelta(hours=2)]
    ring = new_ring(now=lambda: later[0])
    ring.open_authority(stored(pki.authority, key_ref=f"file:{key_file(tmp_path, pki.issuing_key)}"), max_lifetime=CAP)
    assert "expired" in refusal(ring, prepared(pki).tbs)
    later[0] = NOW
    assert sign(ring, prepared(pki).tbs)


def test_signatures_are_of_the_schemes_hash(pki: Pki, ring: KeyRing) -> None:
    """SHA-256 but for P-384."""
    expected = hashes.SHA384 if "384" in str(getattr(pki.authority.scheme.curve, "name", "")) else hashes.SHA256
    each = prepared(pki)
    assert isinstance(verified(each, sign(ring, each.tbs)).certificate.signature_hash_algorithm, expected)
