"""A token issuer of our own, for meshes without Kubernetes: ES256 tokens with the claims of bound tokens.

The tokens are what a Kubernetes API server would project (`sub`, `kubernetes.io` with pod and node), so the same
authenticator reads both. The key rests sealed; its public half is published in this process only.
"""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from app.authority.authorities.authority_ports import AuthorityStore
from app.authority.certificates.mint_tokens import MintedToken, TokenSubject
from app.errors import AppError, ErrorCode
from app.identity.token_claims import parse_service_account_claims

KEY_NAME = "token-issuer"
DEFAULT_ISSUER = "https://gatehouse.local/tokens"
_UID_NAMESPACE = uuid.UUID("6f0d5a4e-6c0b-5d3c-9d62-5f6b1f0f9a53")  # any fixed value: UIDs only have to be stable
_COORDINATE_BYTES = 32


class BuiltinIssuer:
    """Mints tokens; implements `app.authority.certificates.mint_tokens.TokenMinter`."""

    def __init__(
        self,
        key: ec.EllipticCurvePrivateKey,
        *,
        issuer: str = DEFAULT_ISSUER,
        audiences: tuple[str, ...] = ("istio-ca",),
    ) -> None:
        if not isinstance(key.curve, ec.SECP256R1):
            raise AppError(ErrorCode.INVALID, "the token issuer's key must be on P-256")
        self._key = key
        self.issuer = issuer
        self.audiences = audiences
        self._jwk = _public_jwk(key.public_key())

    @classmethod
    async def open(
        cls,
        store: AuthorityStore,
        *,
        seal: Callable[[str, bytes], Awaitable[bytes]],
        unseal: Callable[[str, bytes], Awaitable[bytes]],
        audiences: tuple[str, ...] = ("istio-ca",),
        issuer: str = DEFAULT_ISSUER,
    ) -> Self:
        """The issuer with the stored key; made at the first start. `seal` and `unseal` are a `KeyKeeper`'s.

        Raises:
            AppError: `FAILED_PRECONDITION` when the key does not unseal.
        """
        sealed = await store.get_sealed_key(KEY_NAME)
        if sealed is None:
            fresh = ec.generate_private_key(ec.SECP256R1()).private_bytes(
                serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            sealed = await store.put_sealed_key(KEY_NAME, await seal(KEY_NAME, fresh))
        key = serialization.load_der_private_key(await unseal(KEY_NAME, sealed), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise AppError(ErrorCode.FAILED_PRECONDITION, "the stored key of the token issuer is not an EC key")
        return cls(key, issuer=issuer, audiences=audiences)

    def jwks(self) -> bytes:
        """The published key set (RFC 7517)."""
        return json.dumps({"keys": [self._jwk]}).encode()

    def mint(self, subject: TokenSubject, *, token_id: str, now: datetime, lifetime: timedelta) -> MintedToken:
        """A signed token.

        Raises:
            AppError: `INVALID` when the subject's names are not Kubernetes names.
        """
        issued_at = now.replace(microsecond=0)
        expires_at = issued_at + lifetime
        claims: dict[str, Any] = {
            "iss": self.issuer,
            "aud": list(self.audiences),
            "sub": f"system:serviceaccount:{subject.namespace}:{subject.service_account}",
            "jti": token_id,
            "iat": int(issued_at.timestamp()),
            "nbf": int(issued_at.timestamp()),
            "exp": int(expires_at.timestamp()),
            "kubernetes.io": _private_claim(subject),
        }
        try:
            parse_service_account_claims(claims)
        except AppError as error:
            raise AppError(ErrorCode.INVALID, f"no token can be made of these names: {error.diagnosis}") from None
        token = jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": self._jwk["kid"]})
        return MintedToken(id=token_id, token=token, expires_at=expires_at)


def _private_claim(subject: TokenSubject) -> dict[str, Any]:
    account = f"{subject.namespace}/{subject.service_account}"
    claim: dict[str, Any] = {
        "namespace": subject.namespace,
        "serviceaccount": {"name": subject.service_account, "uid": str(uuid.uuid5(_UID_NAMESPACE, account))},
    }
    if subject.pod_name:
        claim["pod"] = {"name": subject.pod_name, "uid": subject.pod_uid}
    if subject.node_name:
        node_uid = uuid.uuid5(_UID_NAMESPACE, f"node/{subject.node_name}")
        claim["node"] = {"name": subject.node_name, "uid": str(node_uid)}
    return claim


def _public_jwk(key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    numbers = key.public_numbers()
    required = {
        "crv": "P-256",
        "kty": "EC",
        "x": _base64url(numbers.x.to_bytes(_COORDINATE_BYTES)),
        "y": _base64url(numbers.y.to_bytes(_COORDINATE_BYTES)),
    }
    # The thumbprint (RFC 7638) names the key: the same key has the same id after every start.
    thumbprint = hashlib.sha256(json.dumps(required, sort_keys=True, separators=(",", ":")).encode()).digest()
    return {**required, "kid": _base64url(thumbprint), "use": "sig", "alg": "ES256"}


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
