"""JSON Web Key Sets (RFC 7517): from bytes to the public keys that may verify a token.

Only asymmetric keys are taken, and each verifies only the algorithms of its own type, so that a token cannot choose
to be checked as something else (RFC 8725 §3.1). Keys that are not for us (encryption, unknown types, too small) are
left out; a set without any key is an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from app.errors import AppError, ErrorCode

MAX_KEYS = 64
MAX_KEY_ID_CHARS = 256
MIN_RSA_BITS = 2048
# Who publishes a key decides what verifying with it costs us: with an exponent as long as the modulus, milliseconds.
MAX_RSA_BITS = 8192
MAX_RSA_EXPONENT = 65_537

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey

_RSA_ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_EC_ALGORITHMS = {256: frozenset({"ES256"}), 384: frozenset({"ES384"}), 521: frozenset({"ES512"})}
_EC_CURVES = frozenset({"P-256", "P-384", "P-521"})
ALGORITHMS = _RSA_ALGORITHMS | frozenset({"ES256", "ES384", "ES512", "EdDSA"})


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """One public key and the algorithms that it may verify."""

    id: str
    key: PublicKey
    algorithms: frozenset[str]


def parse_jwks(data: bytes | str) -> dict[str, VerificationKey]:
    """The usable keys of a set, by key id; a key without an id has the id "", and the first of an id counts.

    Raises:
        AppError: `UNAVAILABLE` when the bytes are not a key set or it has no usable key.
    """
    keys: dict[str, VerificationKey] = {}
    for _, key in usable_keys(data):
        keys.setdefault(key.id, key)
    return keys


def usable_keys(data: bytes | str) -> list[tuple[dict[str, Any], VerificationKey]]:
    """Every entry of a set that can verify tokens, as it was written and as a key, in the order of the set.

    Raises:
        AppError: `UNAVAILABLE` when it is not a key set or has no usable key.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise _unusable("it is not JSON") from None
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list) or len(entries) > MAX_KEYS:
        raise _unusable(f"it is not a JWK set of at most {MAX_KEYS} keys")
    found = [(entry, key) for entry in entries if (key := _parse_key(entry)) is not None]
    if not found:
        raise _unusable("it has no key that can verify a token")
    return found


def _parse_key(entry: object) -> VerificationKey | None:
    if not isinstance(entry, dict) or "d" in entry or entry.get("use", "sig") != "sig":
        return None
    key_id = entry.get("kid", "")
    if not isinstance(key_id, str) or len(key_id) > MAX_KEY_ID_CHARS:
        return None
    key = _public_key(entry)
    match key:
        case rsa.RSAPublicKey() if _is_fair(key):
            algorithms = _RSA_ALGORITHMS
        case ec.EllipticCurvePublicKey():
            algorithms = _EC_ALGORITHMS[key.curve.key_size]
        case ed25519.Ed25519PublicKey():
            algorithms = frozenset({"EdDSA"})
        case _:
            return None
    declared = entry.get("alg")
    if declared is not None:
        algorithms &= {declared} if isinstance(declared, str) else frozenset()
    return VerificationKey(key_id, key, algorithms) if algorithms else None


def _is_fair(key: rsa.RSAPublicKey) -> bool:
    return MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS and key.public_numbers().e <= MAX_RSA_EXPONENT


def _public_key(entry: Mapping[str, Any]) -> object:
    match entry.get("kty"), entry.get("crv"):
        case "RSA", _:
            algorithm = "RS256"
        case "EC", str() as curve if curve in _EC_CURVES:
            algorithm = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}[curve]
        case "OKP", "Ed25519":
            algorithm = "EdDSA"
        case _:
            return None
    try:
        return jwt.PyJWK(dict(entry), algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None


def _unusable(reason: str) -> AppError:
    return AppError(
        ErrorCode.UNAVAILABLE,
        "the keys of a token issuer cannot be had at the moment; try again",
        diagnosis=f"the issuer's key set (JWKS) is not usable: {reason}",
    )
