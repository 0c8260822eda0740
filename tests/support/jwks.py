"""Key sets for tests."""

from __future__ import annotations

import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm


def jwk(key: Any, **fields: Any) -> dict[str, Any]:
    """A public key as a JWK, with more fields."""
    algorithm = {
        rsa.RSAPublicKey: RSAAlgorithm,
        ec.EllipticCurvePublicKey: ECAlgorithm,
        ed25519.Ed25519PublicKey: OKPAlgorithm,
    }
    public = key.public_key()
    [codec] = [codec for kind, codec in algorithm.items() if isinstance(public, kind)]
    return codec.to_jwk(public, as_dict=True) | fields


def key_set(*keys: Any) -> bytes:
    """A set of keys, encoded."""
    return json.dumps({"keys": keys}).encode()
