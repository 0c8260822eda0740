"""The lint finds every deviation from the profile before a key of an authority has signed it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from app.ca.lint import Expected, lint_workload
from app.identity.spiffe import SpiffeId
from tests.support.certificates import IDENTITY, NOW, make_csr, make_pki, serial, spki

PKI = make_pki()
KEY = ec.generate_private_key(ec.SECP256R1())
AFTER = NOW + timedelta(hours=1)
EXPECTED = Expected(
    identity=IDENTITY,
    public_key_der=spki(KEY),
    issuer_name=PKI.authority.name,
    issuer_key_id=PKI.authority.key_id,
    issuer_scheme=PKI.authority.scheme,
    serial=serial(7),
    not_before=NOW,
    not_after=AFTER,
)

Extensions = dict[str, tuple[x509.ExtensionType, bool] | None]


def usage(**changes: bool) -> x509.KeyUsage:
    names = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement "
        "key_cert_sign crl_sign encipher_only decipher_only"
    )
    return x509.KeyUsage(**{name: changes.get(name, name == "digital_signature") for name in names.split()})


def uris(*names: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name) for name in names])


GOOD_EXTENSIONS: Extensions = {
    "usage": (usage(), True),
    "purposes": (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False),
    "constraints": (x509.BasicConstraints(False, None), True),
    "key_id": (x509.SubjectKeyIdentifier.from_public_key(KEY.public_key()), False),
    "issuer_key_id": (x509.AuthorityKeyIdentifier(PKI.authority.key_id, None, None), False),
    "names": (uris(str(IDENTITY)), True),
}


def build(
    *,
    extensions: Extensions | None = None,
    change: Callable[[x509.CertificateBuilder], x509.CertificateBuilder] = lambda builder: builder,
    fields: dict[str, object] | None = None,
    algorithm: hashes.SHA256 | hashes.SHA384 | None = None,
) -> bytes:
    """A certificate of the profile but for the given changes, signed by a key that is nobody's."""
    values = {
        "subject": x509.Name([]),
        "issuer": PKI.authority.certificate.subject,
        "key": KEY.public_key(),
        "serial": serial(7),
        "before": NOW,
        "after": AFTER,
        **(fields or {}),
    }
    builder = x509.CertificateBuilder(
        values["issuer"], values["subject"], values["key"], values["serial"]
    ).not_valid_before(values["before"])
    builder = builder.not_valid_after(values["after"])
    for extension in {**GOOD_EXTENSIONS, **(extensions or {})}.values():
        if extension is not None:
            builder = builder.add_extension(extension[0], critical=extension[1])
    nobody = ec.generate_private_key(ec.SECP256R1())
    return change(builder).sign(nobody, algorithm or hashes.SHA256()).public_bytes(Encoding.DER)


def test_the_profile_has_no_findings() -> None:
    """The certificate that all the others are changed from is good."""
    assert [] == lint_workload(build(), EXPECTED)


BROKEN_EXTENSIONS: dict[str, Extensions] = {
    "CA:TRUE": {"constraints": (x509.BasicConstraints(True, None), True)},
    "CA:TRUE with path length": {"constraints": (x509.BasicConstraints(True, 0), True)},
    "basic constraints not critical": {"constraints": (x509.BasicConstraints(False, None), False)},
    "no basic constraints": {"constraints": None},
    "key usage not critical": {"usage": (usage(), False)},
    "no key usage": {"usage": None},
    "no digitalSignature": {"usage": (usage(digital_signature=False, key_agreement=True), True)},
    "keyEncipherment": {"usage": (usage(key_encipherment=True), True)},
    "keyCertSign": {"usage": (usage(key_cert_sign=True), True)},
    "cRLSign": {"usage": (usage(crl_sign=True), True)},
    "no purposes": {"purposes": None},
    "server only": {"purposes": (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)},
    "client only": {"purposes": (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)},
    "purposes critical": {"purposes": (GOOD_EXTENSIONS["purposes"][0], True)},
    "any purpose": {
        "purposes": (
            x509.ExtendedKeyUsage(
                [
                    ExtendedKeyUsageOID.SERVER_AUTH,
                    ExtendedKeyUsageOID.CLIENT_AUTH,
                    ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
                ]
            ),
            False,
        )
    },
    "code signing": {"purposes": (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False)},
    "no subject key id": {"key_id": None},
    "wrong subject key id": {"key_id": (x509.SubjectKeyIdentifier(bytes(20)), False)},
    "subject key id critical": {"key_id": (GOOD_EXTENSIONS["key_id"][0], True)},
    "no authority key id": {"issuer_key_id": None},
    "wrong authority key id": {"issuer_key_id": (x509.AuthorityKeyIdentifier(bytes(20), None, None), False)},
    "authority key id by name": {
        "issuer_key_id": (
            x509.AuthorityKeyIdentifier(
                PKI.authority.key_id, [x509.DirectoryName(PKI.root.subject)], PKI.root.serial_number
            ),
            False,
        )
    },
    "no names": {"names": None},
    "names not critical": {"names": (uris(str(IDENTITY)), False)},
    "another identity": {"names": (uris("spiffe://cluster.local/ns/shop/sa/admin"), True)},
    "two identities": {"names": (uris(str(IDENTITY), "spiffe://cluster.local/ns/shop/sa/admin"), True)},
    "the identity twice": {"names": (uris(str(IDENTITY), str(IDENTITY)), True)},
    "a host name too": {
        "names": (
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(IDENTITY)), x509.DNSName("localhost")]),
            True,
        )
    },
    "upper case": {"names": (uris(str(IDENTITY).replace("cluster", "Cluster")), True)},
    "unknown critical": {
        "more": (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00"), True)
    },
    "certificate policies": {
        "more": (
            x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier("2.23.140.1.2.1"), None)]),
            False,
        )
    },
    "CRL distribution points": {
        "more": (
            x509.CRLDistributionPoints(
                [x509.DistributionPoint([x509.UniformResourceIdentifier("http://crl")], None, None, None)]
            ),
            False,
        )
    },
    "name constraints": {"more": (x509.NameConstraints([x509.DNSName("example")], None), True)},
}


@pytest.mark.parametrize("extensions", BROKEN_EXTENSIONS.values(), ids=BROKEN_EXTENSIONS.keys())
def test_a_broken_extension_is_found(extensions: Extensions) -> None:
    """Each by itself, and as a finding about an extension."""
    findings = lint_workload(build(extensions=extensions), EXPECTED)
    assert findings
    assert all("extension" in finding for finding in findings)


BROKEN_FIELDS: dict[str, dict[str, object]] = {
    "subject": {"subject": x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cart")])},
    "issuer": {"issuer": PKI.root.subject},
    "public key": {"key": ec.generate_private_key(ec.SECP256R1()).public_key()},
    "serial": {"serial": serial(8)},
    "first second": {"before": NOW - timedelta(seconds=1)},
    "last second": {"after": AFTER + timedelta(seconds=1)},
}


@pytest.mark.parametrize(("finding", "fields"), BROKEN_FIELDS.items())
def test_a_broken_field_is_found(finding: str, fields: dict[str, object]) -> None:
    """By its name."""
    assert any(finding in found for found in lint_workload(build(fields=fields), EXPECTED))


def test_another_signature_algorithm_is_found() -> None:
    """In both places where it stands."""
    findings = lint_workload(build(algorithm=hashes.SHA384()), EXPECTED)
    assert ["inner signature algorithm", "outer signature algorithm"] == findings


@pytest.mark.parametrize("number", [1, 2**127, 2**159])
def test_a_serial_that_is_too_short_or_too_long_is_found(number: int) -> None:
    """Even when it is the expected one."""
    findings = lint_workload(build(fields={"serial": number}), replace(EXPECTED, serial=number))
    assert ["serial is not positive, unpredictable and of at most 20 octets"] == findings


def test_an_identity_that_was_not_meant_is_found() -> None:
    """The lint compares with what was authorised, not with what looks good."""
    other = replace(EXPECTED, identity=SpiffeId.parse("spiffe://cluster.local/ns/shop/sa/other"))
    assert lint_workload(build(), other)


def test_trailing_bytes_cut_ends_and_long_forms_are_found() -> None:
    """Only strict DER decodes."""
    good = build()
    long_form = good[:1] + b"\x83\x00" + good[2:] if good[1] == 0x82 else good
    for bad in (good + b"\x00", good[:-1], b"", long_form, b"\x30\x80" + good[4:] + b"\x00\x00"):
        assert lint_workload(bad, EXPECTED)


def test_an_oversized_certificate_is_found() -> None:
    """A backstop for whatever could blow it up."""
    padding = x509.UnrecognizedExtension(
        x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x04\x82\x10\x00" + bytes(4096)
    )
    assert ["larger than 4096 bytes"] == lint_workload(build(extensions={"more": (padding, False)}), EXPECTED)


def test_what_the_product_issues_has_no_findings() -> None:
    """The lint runs on the stand-in's signature; it must agree about the real one."""
    issued = PKI.issue(make_csr(KEY))
    expected = replace(EXPECTED, not_before=issued.not_before, not_after=issued.not_after)
    assert [] == lint_workload(issued.der, expected)
