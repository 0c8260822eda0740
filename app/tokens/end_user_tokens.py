"""Verifies tokens of end users in a decision worker, with the keys that came with its snapshot.

Everything is explicit: size, strict JSON of header and payload, issuer, algorithm by key type, audience and times, then
the signature. What holds a signature is remembered by the SHA-256 of the token, never by its text, together with the
set of keys: other keys, and nothing that is remembered holds any more. Times are compared at every use.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt

from app.decision.ports import TokenRefusal, VerifiedToken
from app.errors import AppError
from app.limits import TokenLimits
from app.policy.authentication_index import KeySet
from app.policy.request_authentication import JwtRule
from app.tokens.claims import parse_claims
from app.tokens.jwks import ALGORITHMS, MAX_KEY_ID_CHARS, VerificationKey, usable_keys

_SHAPE = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_LATEST_SECONDS = 253_402_300_799  # the end of the year 9999


@dataclass(frozen=True, slots=True)
class _Signed:
    """What one signature vouches for; `expires` and `starts` are seconds since 1970, None where not said."""

    token: VerifiedToken
    issuer: object
    audiences: frozenset[str]
    expires: float | None
    starts: float | None
    size: int  # of the token


class _RefusedError(Exception):
    """A refusal on its way out of this module's functions."""

    def __init__(self, reason: str, *, ask_for_keys: bool = False, other_issuer: bool = False) -> None:
        super().__init__(reason)
        self.refusal = TokenRefusal(reason, ask_for_keys, other_issuer)


class EndUserTokenVerifier:
    """Implements `app.decision.ports.TokenVerifier`."""

    def __init__(self, limits: TokenLimits) -> None:
        self._limits = limits
        self._signatures = jwt.PyJWS(options={"enforce_minimum_key_length": True})
        self._key_sets: OrderedDict[str, tuple[VerificationKey, ...]] = OrderedDict()
        self._verified: OrderedDict[tuple[str, bytes], _Signed] = OrderedDict()
        self._verified_bytes = 0
        self._last_read: tuple[bytes, Mapping[str, Any], _Signed] | None = None

    def verify(self, token: str, rule: JwtRule, keys: KeySet | None, now: float) -> VerifiedToken | TokenRefusal:
        """See `TokenVerifier.verify`."""
        try:
            return self._verify(token, rule, keys, now)
        except _RefusedError as refused:
            return refused.refusal

    def _verify(self, token: str, rule: JwtRule, keys: KeySet | None, now: float) -> VerifiedToken:
        if len(token) > self._limits.max_token_bytes:
            raise _RefusedError(f"the token is longer than {self._limits.max_token_bytes} bytes")
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        remembered = None if keys is None else (keys.id, digest)
        signed = None if remembered is None else self._verified.get(remembered)
        if signed is not None:
            assert remembered is not None
            self._check(signed, rule, now, forget=remembered)
            self._verified.move_to_end(remembered)
            return signed.token
        header, signed = self._read_once(token, digest)
        # Before the signature: whoever sends what is not for this rule costs no cryptography.
        self._check(signed, rule, now)
        if keys is None or remembered is None:
            raise _RefusedError(f"the keys of issuer {rule.issuer} could not be had yet", ask_for_keys=True)
        self._check_signature(token, header, self._keys_of(keys), rule.issuer)
        self._remember(remembered, signed)
        return signed.token

    def _remember(self, key: tuple[str, bytes], signed: _Signed) -> None:
        self._verified[key] = signed
        self._verified_bytes += signed.size
        while len(self._verified) > self._limits.cache_entries or self._verified_bytes > self._limits.cache_bytes:
            self._forget(next(iter(self._verified)))

    def _forget(self, key: tuple[str, bytes]) -> None:
        self._verified_bytes -= self._verified.pop(key).size

    def _read_once(self, token: str, digest: bytes) -> tuple[Mapping[str, Any], _Signed]:
        """Header and payload; the same token is asked about for one rule after the other."""
        last = self._last_read
        if last is None or last[0] != digest:
            last = self._last_read = (digest, *self._read(token))
        return last[1:]

    def _read(self, token: str) -> tuple[Mapping[str, Any], _Signed]:
        """Header and payload, strictly; nobody has vouched for them yet."""
        if not _SHAPE.fullmatch(token):
            raise _RefusedError("the token is not a signed JWT")
        head, payload, _ = token.split(".")
        header, claims = self._object(head), self._object(payload)
        # Critical extensions and unencoded payloads (RFC 7515 §4.1.11, RFC 7797) are not known here.
        if "crit" in header or "b64" in header:
            raise _RefusedError("the token's header has extensions that are not known here")
        return header, _Signed(
            VerifiedToken(claims, payload),
            claims.get("iss"),
            _audiences(claims.get("aud")),
            _seconds(claims, "exp"),
            _seconds(claims, "nbf"),
            len(token),
        )

    def _object(self, part: str) -> dict[str, Any]:
        try:
            data = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
            return parse_claims(data, max_nesting=self._limits.max_nesting)
        except (AppError, binascii.Error, ValueError):
            raise _RefusedError("the token's header or payload is not strict JSON of bounded depth") from None

    def _check(self, signed: _Signed, rule: JwtRule, now: float, forget: tuple[str, bytes] | None = None) -> None:
        """Compare issuer, audience and times; what has ended is not remembered either."""
        if signed.issuer != rule.issuer:
            raise _RefusedError(f"the token's iss is not {rule.issuer}", other_issuer=True)
        leeway = self._limits.leeway_seconds
        if signed.expires is not None and now >= signed.expires + leeway:
            if forget is not None:
                self._forget(forget)
            raise _RefusedError(f"the token of {rule.issuer} has ended")
        if signed.starts is not None and now < signed.starts - leeway:
            raise _RefusedError(f"the token of {rule.issuer} begins later")
        if rule.audiences and signed.audiences.isdisjoint(map(_plain_audience, rule.audiences)):
            raise _RefusedError(f"the token of {rule.issuer} is for none of the audiences of the rule")

    def _check_signature(
        self, token: str, header: Mapping[str, Any], keys: tuple[VerificationKey, ...], issuer: str
    ) -> None:
        algorithm, key_id = header.get("alg"), header.get("kid", "")
        if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
            raise _RefusedError("the token's alg is not accepted: RS, PS, ES and EdDSA are")
        if not isinstance(key_id, str) or len(key_id) > MAX_KEY_ID_CHARS:
            raise _RefusedError("the token's kid is not a key id")
        # A kid only chooses among the issuer's keys; a key without an id, or a token without a kid, fits any.
        named = [key for key in keys if not key_id or not key.id or key.id == key_id]
        if not named:
            raise _RefusedError(
                f"{issuer} publishes no key with the token's kid, as far as is known", ask_for_keys=True
            )
        fitting = [key for key in named if algorithm in key.algorithms]
        if not fitting:
            raise _RefusedError("the token's alg does not belong to its key")
        for key in fitting[: self._limits.max_keys_tried]:
            if self._holds(token, key, algorithm):
                return
        raise _RefusedError(
            f"the signature of the token of {issuer} does not hold",
            # Where keys or tokens have no ids, another key looks like this.
            ask_for_keys=not key_id or not all(key.id for key in named),
        )

    def _holds(self, token: str, key: VerificationKey, algorithm: str) -> bool:
        try:
            self._signatures.decode(token, key=key.key, algorithms=[algorithm])
        except (jwt.PyJWTError, ValueError):
            return False
        return True

    def _keys_of(self, keys: KeySet) -> tuple[VerificationKey, ...]:
        known = self._key_sets.get(keys.id)
        if known is None:
            try:
                known = tuple(key for _, key in usable_keys(keys.jwks))
            except AppError:
                known = ()
            self._key_sets[keys.id] = known
            if len(self._key_sets) > self._limits.key_set_entries:
                self._key_sets.popitem(last=False)
        return known


def _audiences(value: object) -> frozenset[str]:
    match value:
        case str() as single:
            return frozenset((_plain_audience(single),))
        case list() as several if all(isinstance(one, str) for one in several):
            return frozenset(map(_plain_audience, several))
        case None:
            return frozenset()
        case _:
            raise _RefusedError("the token's aud is neither a text nor a list of texts")


def _plain_audience(audience: str) -> str:
    """An audience as Envoy compares it: without scheme and without a slash at the end."""
    return audience.removeprefix("https://").removeprefix("http://").removesuffix("/")


def _seconds(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LATEST_SECONDS:
        raise _RefusedError(f"the token's {name} is not a moment in time")
    return float(value)
