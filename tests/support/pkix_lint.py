"""Certificates read by an independent linter of RFC 5280 (pkilint)."""

from __future__ import annotations

import re

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pkilint import loader, pkix
from pkilint.document import Document
from pkilint.pkix import certificate, crl, extension, name
from pkilint.validation import ValidationFindingSeverity, ValidatorContainer

from app.identity.spiffe import SpiffeId, TrustDomain

# pkilint wants a domain name as the host of any URI, which a SPIFFE ID's trust domain need not be, and wants a dot in
# every DNS name, which the preferred syntax of RFC 1034 §3.5 does not.
SPIFFE_VALUE = re.compile(r'Invalid URI syntax: "spiffe://(?P<trust_domain>[^/"]+)(?P<path>/[^"]+)?"')
SINGLE_LABEL = 'Invalid domain name syntax: "localhost"'


def pkix_findings(checked: x509.Certificate) -> list[str]:
    """Every finding above "information", without the known false positives."""
    validator = certificate.create_pkix_certificate_validator_container(
        certificate.create_decoding_validators(name.ATTRIBUTE_TYPE_MAPPINGS, extension.EXTENSION_MAPPINGS),
        [
            certificate.create_issuer_validator_container([]),
            certificate.create_validity_validator_container(),
            certificate.create_subject_validator_container([]),
            certificate.create_extensions_validator_container([]),
            certificate.create_spki_validator_container([]),
        ],
    )
    document = loader.load_certificate(checked.public_bytes(Encoding.DER), "certificate")
    return _findings(validator, document)


def pkix_crl_findings(checked: x509.CertificateRevocationList) -> list[str]:
    """The same for a revocation list."""
    validator = crl.create_pkix_crl_validator_container(
        [
            pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS),
            pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS),
        ],
        [
            crl.create_issuer_validator_container([]),
            crl.create_validity_validator_container([]),
            crl.create_extensions_validator_container([]),
        ],
    )
    document = loader.load_crl(checked.public_bytes(Encoding.DER), "crl")
    return _findings(validator, document)


def _findings(validator: ValidatorContainer, document: Document) -> list[str]:
    return [
        f"{finding.finding.code}: {finding.message or ''}"
        for result in validator.validate(document.root)
        for finding in result.finding_descriptions
        if finding.finding.severity < ValidationFindingSeverity.INFO  # the worst has the lowest number
        and not _is_false_positive(finding.finding.code, finding.message or "")
    ]


def _is_false_positive(code: str, message: str) -> bool:
    if code == "pkix.invalid_domain_name_syntax":
        return message == SINGLE_LABEL
    found = SPIFFE_VALUE.fullmatch(message) if code == "pkix.invalid_uri_syntax" else None
    if found is None:
        return False
    # Only what our own, stricter grammar accepts is a false positive.
    trust_domain = TrustDomain.parse(found["trust_domain"])
    return found["path"] is None or bool(SpiffeId.parse(f"spiffe://{trust_domain}{found['path']}"))
