"""Issuers of end users' tokens, with real keys, and the documents that believe them."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tests.support.jwks import jwk

ISSUER = "https://login.example.com"
NOW = 1_800_000_000

_KEYS: dict[str, Any] = {}


def key(name: str) -> Any:
    """A key that tests share, because making one takes time: `rsa`, `rsa2`, `p256`, `p384`, `p521` or `ed25519`."""
    if name not in _KEYS:
        curves = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}
        if name.startswith("rsa"):
            _KEYS[name] = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        elif name.startswith("ed25519"):
            _KEYS[name] = ed25519.Ed25519PrivateKey.generate()
        else:
            _KEYS[name] = ec.generate_private_key(curves[name[:4]])
    return _KEYS[name]


def part(value: Any) -> str:
    """One part of a token: bytes, or the JSON of a value."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class EndUsers:
    """An issuer with one key."""

    def __init__(
        self, issuer: str = ISSUER, *, key_name: str = "p256", kid: str | None = "k1", algorithm: str = "ES256"
    ) -> None:
        self.issuer = issuer
        self.key = key(key_name)
        self.kid = kid
        self.algorithm = algorithm

    @property
    def jwk(self) -> dict[str, Any]:
        """The public key."""
        return jwk(self.key, **({} if self.kid is None else {"kid": self.kid}))

    @property
    def jwks(self) -> str:
        """Its key set."""
        return json.dumps({"keys": [self.jwk]})

    def token(self, header: Mapping[str, Any] | None = None, **claims: Any) -> str:
        """A token for alice that ends in an hour; a claim that is None is left out."""
        members = {"iss": self.issuer, "sub": "alice", "exp": NOW + 3600} | claims
        payload = json.dumps({name: value for name, value in members.items() if value is not None})
        return self.sign(payload.encode(), header)

    def sign(self, payload: bytes, header: Mapping[str, Any] | None = None) -> str:
        """A token with exactly this payload."""
        headers = {} if self.kid is None else {"kid": self.kid}
        return jwt.PyJWS().encode(payload, self.key, algorithm=self.algorithm, headers={**headers, **(header or {})})

    def rule(self, **fields: Any) -> dict[str, Any]:
        """A rule that believes it; with the keys in the document unless told where they are."""
        keys = {} if "jwksUri" in fields else {"jwks": self.jwks}
        return {"issuer": self.issuer, **keys, **fields}


def authentication(
    name: str = "users", *rules: Mapping[str, Any], namespace: str = "shop", **spec: Any
) -> dict[str, Any]:
    """A RequestAuthentication document, for the service `orders` unless told otherwise."""
    where = (
        {}
        if {"selector", "targetRef", "targetRefs"} & spec.keys()
        else {"targetRefs": [{"kind": "Service", "group": "", "name": "orders"}]}
    )
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "RequestAuthentication",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {**where, "jwtRules": list(rules), **spec},
    }


def bearer(token: str) -> dict[str, tuple[str, ...]]:
    """The header that carries it."""
    return {"authorization": (f"Bearer {token}",)}
