"""Verifies the bearer tokens of one issuer, offline, against its published keys.

Everything is explicit: size, header, algorithm by key type, signature, registered claims, then the claims of a bound
service-account token. A verified token is remembered by the SHA-256 of its text, never by the text, until it ends,
its key is withdrawn, or a bound has passed, so that a node proxy's next request costs a hash.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt

from app.authority.ports import TokenCaller
from app.identity.token_claims import parse_service_account_claims
from app.limits import CertificateLimits
from app.tokens.claims import check_registered_claims, parse_claims, refused
from app.tokens.jwks import ALGORITHMS, MAX_KEY_ID_CHARS, VerificationKey
from app.tokens.jwks_source import JwksSource
from app.tokens.key_cache import KeyCache

MAX_TOKEN_ID_CHARS = 256
_TYPES = frozenset({None, "JWT", "jwt"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """An issuer whose tokens are believed: its exact `iss`, the audiences we answer to, the cluster it speaks for."""

    issuer: str
    audiences: frozenset[str] = frozenset({"istio-ca"})
    cluster: str = ""


@dataclass(frozen=True, slots=True)
class _Verified:
    caller: TokenCaller
    key: VerificationKey
    until: datetime


class JwksAuthenticator:
    """Implements `app.authority.ports.TokenAuthenticator` for one issuer."""

    def __init__(self, issuer: Issuer, source: JwksSource, limits: CertificateLimits) -> None:
        self.issuer = issuer
        self._limits = limits
        self._keys = KeyCache(source, limits, issuer=issuer.issuer)
        self._verified: OrderedDict[bytes, _Verified] = OrderedDict()
        self._signatures = jwt.PyJWS(options={"enforce_minimum_key_length": True})

    async def authenticate(self, token: str, *, now: datetime, cluster: str = "") -> TokenCaller:  # noqa: ARG002
        """The caller that a valid token names.

        Raises:
            AppError: `UNAUTHENTICATED` with a diagnosis; `UNAVAILABLE` when the issuer's keys cannot be had.
        """
        if len(token) > self._limits.max_token_bytes:
            raise refused(f"too_long: the token is longer than {self._limits.max_token_bytes} bytes")
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._verified.get(digest)
        if known is not None:
            if now < known.until and self._keys.holds(known.key):
                self._verified.move_to_end(digest)
                # Asked for, so that keys that are withdrawn are noticed even when every token is known.
                await self._keys.find(known.key.id)
                return known.caller
            del self._verified[digest]
        verified = await self._verify(token, now)
        self._verified[digest] = verified
        if len(self._verified) > self._limits.token_cache_entries:
            self._verified.popitem(last=False)
        return verified.caller

    async def close(self) -> None:
        """Stop what runs in the background."""
        await self._keys.close()

    async def _verify(self, token: str, now: datetime) -> _Verified:
        header = read_header(token)
        algorithm, key_id = header.get("alg"), header.get("kid", "")
        if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
            raise refused("algorithm: the token's alg is not accepted")
        if not isinstance(key_id, str) or len(key_id) > MAX_KEY_ID_CHARS:
            raise refused("unknown_key: the token's kid is not a key id")
        # A name to look up and nothing else: a kid that is a URL or a path is just a name that nobody has.
        key = await self._keys.find(key_id)
        if key is None:
            raise refused("unknown_key: the issuer publishes no key with the token's kid")
        if algorithm not in key.algorithms:
            raise refused("algorithm: the token's alg does not belong to its key")
        try:
            payload = self._signatures.decode(token, key=key.key, algorithms=[algorithm])
        except jwt.InvalidSignatureError:
            raise refused("signature: it does not hold") from None
        except (jwt.PyJWTError, ValueError):
            raise refused("malformed: the token is not a signed JWT") from None
        return self._read(parse_claims(payload), key, now)

    def _read(self, claims: dict[str, Any], key: VerificationKey, now: datetime) -> _Verified:
        expires_at = check_registered_claims(
            claims,
            issuer=self.issuer.issuer,
            audiences=self.issuer.audiences,
            now=now,
            leeway_seconds=self._limits.token_leeway_seconds,
        )
        token_id = claims.get("jti", "")
        if not isinstance(token_id, str) or len(token_id) > MAX_TOKEN_ID_CHARS:
            raise refused("claims: jti is not a short text")
        bearer = parse_service_account_claims(claims)
        caller = TokenCaller(
            issuer=self.issuer.issuer,
            token_id=token_id,
            namespace=bearer.namespace,
            service_account=bearer.service_account,
            pod_name=bearer.pod_name,
            pod_uid=bearer.pod_uid,
            node_name=bearer.node_name,
            cluster=self.issuer.cluster,
            issued_at=datetime.fromtimestamp(claims["iat"], UTC),
            expires_at=expires_at,
        )
        bound = now + timedelta(seconds=self._limits.jwks_refresh_seconds)
        return _Verified(caller, key, min(expires_at, bound))


def read_header(token: str) -> dict[str, Any]:
    """The token's header, unverified.

    Raises:
        AppError: `UNAUTHENTICATED` when it is not a JWS compact header, or has critical extensions (we know none).
    """
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise refused("malformed: the token is not a JWT") from None
    if "crit" in header or "b64" in header or header.get("typ") not in _TYPES:
        raise refused("malformed: the token's header has extensions or a type that are not known")
    return header
