"""The trust bundle as SPIFFE writes it: a JWK set (SPIFFE Trust Domain and Bundle §4, X509-SVID §6.2).

Writing gives the same bytes for the same roots. Reading is strict where a mistake would change whom we trust: a key
that stands twice in an object, an entry of ours with anything but exactly one certificate, a number that is none.
Entries for other uses (`jwt-svid`, unknown ones) are left out, as the specification wants.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from app.ca.bundle import MAX_ROOTS, TrustBundle
from app.errors import AppError, ErrorCode
from app.identity.spiffe import TrustDomain
from app.strict_json import unique_members

X509_USE = "x509-svid"
MAX_SPIFFE_BUNDLE_BYTES = 1_048_576
# What a reader assumes when there is no hint (SPIFFE Trust Domain and Bundle §4.1.2).
DEFAULT_REFRESH_HINT = timedelta(minutes=5)
_MAX_INTEGER = 2**63 - 1
_MAX_ENTRIES = 4 * MAX_ROOTS
_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SpiffeBundle:
    """A bundle that was read; `sequence` and `refresh_hint` are None when it does not say."""

    bundle: TrustBundle
    sequence: int | None
    refresh_hint: timedelta | None


def write_spiffe_bundle(bundle: TrustBundle, *, sequence: int, refresh_hint: timedelta) -> bytes:
    """The bundle as a JWK set in JSON."""
    document = {
        "keys": [_entry(root) for root in bundle.roots],
        "spiffe_sequence": sequence,
        "spiffe_refresh_hint": int(refresh_hint.total_seconds()),
    }
    return json.dumps(document, separators=(",", ":")).encode("ascii")


def parse_spiffe_bundle(data: bytes, trust_domain: TrustDomain) -> SpiffeBundle:
    """The roots in a JWK set, as those of `trust_domain` (the document itself does not name one).

    Raises:
        AppError: `MALFORMED` when it is not such a document, `INVALID` when it has no root or one that is none.
    """
    if len(data) > MAX_SPIFFE_BUNDLE_BYTES:
        raise _malformed(f"it is longer than {MAX_SPIFFE_BUNDLE_BYTES} bytes")
    try:
        document = json.loads(data, object_pairs_hook=unique_members)
    except (ValueError, RecursionError):
        raise _malformed("it is not JSON, or an object in it has a key twice") from None
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise _malformed("it is not a JWK set")
    if len(document["keys"]) > _MAX_ENTRIES:
        raise _malformed(f"it has more than {_MAX_ENTRIES} keys")
    roots = tuple(_root(entry) for entry in document["keys"] if _is_for_x509(entry))
    hint = _integer(document, "spiffe_refresh_hint")
    return SpiffeBundle(
        bundle=TrustBundle.of(trust_domain, roots),
        sequence=_integer(document, "spiffe_sequence"),
        refresh_hint=None if hint is None else timedelta(seconds=min(hint, 86_400 * 365)),
    )


def _entry(root: x509.Certificate) -> dict[str, Any]:
    der = root.public_bytes(Encoding.DER)
    # `kid` must be absent, `x5c` holds exactly this one certificate (X509-SVID §6.2).
    return {**_key(root), "use": X509_USE, "x5c": [base64.b64encode(der).decode("ascii")]}


def _key(root: x509.Certificate) -> dict[str, str]:
    """The public key as a JWK (RFC 7518 §6)."""
    try:
        key = root.public_key()
    except (ValueError, UnsupportedAlgorithm):
        # A point off its curve, or an algorithm that nobody here knows.
        raise AppError(ErrorCode.INVALID, "a root's key cannot be read") from None
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        return {"kty": "RSA", "n": _number(numbers.n), "e": _number(numbers.e)}
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        point, length = key.public_numbers(), (key.curve.key_size + 7) // 8
        return {
            "kty": "EC",
            "crv": _CURVES[key.curve.name],
            "x": _number(point.x, length),
            "y": _number(point.y, length),
        }
    raise AppError(ErrorCode.INVALID, "a root's key must be RSA or on P-256, P-384 or P-521")


def _number(value: int, length: int = 0) -> str:
    octets = value.to_bytes(length or (value.bit_length() + 7) // 8)
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode("ascii")


def _is_for_x509(entry: object) -> bool:
    if not isinstance(entry, dict):
        raise _malformed("a key is not an object")
    return entry.get("use") == X509_USE


def _root(entry: Mapping[str, Any]) -> x509.Certificate:
    chain = entry.get("x5c")
    if not isinstance(chain, list) or len(chain) != 1 or not isinstance(chain[0], str):
        raise _malformed("an x509-svid key must have exactly one certificate in x5c")
    if "kid" in entry:
        raise _malformed("an x509-svid key must have no kid")
    try:
        certificate = x509.load_der_x509_certificate(base64.b64decode(chain[0], validate=True))
    except (ValueError, binascii.Error, x509.InvalidVersion):
        raise _malformed("what stands in x5c is not a certificate") from None
    for name, value in _key(certificate).items():
        if entry.get(name, value) != value:
            raise _malformed("a key is not the key of its certificate")
    return certificate


def _integer(document: Mapping[str, Any], name: str) -> int | None:
    value = document.get(name)
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= _MAX_INTEGER:
        raise _malformed(f"{name} is not a whole number from 0")
    return value


def _malformed(reason: str) -> AppError:
    return AppError(ErrorCode.MALFORMED, f"not a SPIFFE bundle: {reason}")
