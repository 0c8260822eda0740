"""Certificates read by an independent linter of RFC 5280 (pkilint)."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pkilint import loader
from pkilint.pkix import certificate, extension, name
from pkilint.validation import ValidationFindingSeverity

# pkilint wants a domain name as the host of any URI; a SPIFFE ID's trust domain need not be one.
SPIFFE_FALSE_POSITIVE = "pkix.invalid_uri_syntax"


def pkix_findings(checked: x509.Certificate) -> list[str]:
    """Every finding above "information", without the known false positive for SPIFFE IDs."""
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
    return [
        f"{finding.finding.code}: {finding.message or ''}"
        for result in validator.validate(document.root)
        for finding in result.finding_descriptions
        if finding.finding.severity < ValidationFindingSeverity.INFO  # the worst has the lowest number
        and not _is_false_positive(finding.finding.code, finding.message or "")
    ]


def _is_false_positive(code: str, message: str) -> bool:
    return code == SPIFFE_FALSE_POSITIVE and "spiffe://" in message
