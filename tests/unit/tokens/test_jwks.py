"""Which keys of a published set may verify what."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from app.errors import AppError, ErrorCode
from app.tokens.jwks import MAX_KEYS, parse_jwks
from tests.support.jwks import jwk, key_set

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
P256 = ec.generate_private_key(ec.SECP256R1())
P384 = ec.generate_private_key(ec.SECP384R1())
P521 = ec.generate_private_key(ec.SECP521R1())
ED = ed25519.Ed25519PrivateKey.generate()


@pytest.mark.parametrize(
    ("key", "algorithms"),
    [
        (RSA, {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
        (P256, {"ES256"}),
        (P384, {"ES384"}),
        (P521, {"ES512"}),
        (ED, {"EdDSA"}),
    ],
)
def test_a_key_verifies_only_the_algorithms_of_its_type(key: Any, algorithms: set[str]) -> None:
    """An RSA key never verifies an elliptic curve signature, and no key a MAC."""
    assert parse_jwks(key_set(jwk(key, kid="k")))["k"].algorithms == algorithms


def test_a_declared_algorithm_narrows_the_choice() -> None:
    """A key that says RS512 verifies nothing else."""
    assert parse_jwks(key_set(jwk(RSA, kid="k", alg="RS512")))["k"].algorithms == {"RS512"}


def test_the_first_of_two_keys_with_one_id_counts() -> None:
    """A later key cannot take the place of an earlier one."""
    keys = parse_jwks(key_set(jwk(P256, kid="k"), jwk(P384, kid="k")))

    assert {key.id: key.algorithms for key in keys.values()} == {"k": {"ES256"}}


@pytest.mark.parametrize(
    "entry",
    [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "x"},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "x", "alg": "HS256"},
        jwk(P256, kid="x", use="enc"),
        jwk(P256, kid="x", alg="HS256"),
        jwk(P256, kid="x", alg="RS256"),
        jwk(P256, kid="x", alg=["ES256"]),
        jwk(RSA, kid="x") | {"kty": ["RSA"]},
        jwk(RSA, kid="x") | {"e": jwk(RSA)["n"]},
        jwk(RSA, kid="x") | {"e": "AQAAAAE"},
        jwk(RSA, kid="x") | {"n": jwk(RSA)["n"] * 8},
        jwk(P256, kid="x", d="AAAA"),
        jwk(P256, kid="x") | {"crv": "secp256k1"},
        jwk(P256, kid="x") | {"x": "AAAA"},
        jwk(P256, kid="x" * 300),
        jwk(P256, kid=7),
        {"kty": "RSA", "n": "AQ", "e": "AQAB", "kid": "x"},
        {"kty": "EC", "kid": "x"},
        {"kid": "x"},
        "text",
        None,
    ],
)
def test_a_key_that_is_not_for_us_is_left_out(entry: Any) -> None:
    """Symmetric, private, small, costly, broken or foreign keys do not spoil the others."""
    assert set(parse_jwks(key_set(entry, jwk(P256, kid="good")))) == {"good"}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"keys": {}}',
        b'{"keys": []}',
        b"\xff",
        b"[" * 100_000,
        key_set({"kty": "oct", "k": "c2VjcmV0"}),
        key_set(*[jwk(P256, kid=str(n)) for n in range(MAX_KEYS + 1)]),
    ],
)
def test_what_has_no_usable_key_is_unavailable(data: bytes) -> None:
    """A set without a key never means that anything goes."""
    with pytest.raises(AppError) as failure:
        parse_jwks(data)

    assert failure.value.code is ErrorCode.UNAVAILABLE
