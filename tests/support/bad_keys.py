"""Public keys that must never be certified, by negative case: SubjectPublicKeyInfo, DER."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, mldsa, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support import der_writer as der

_P256 = 2**256 - 2**224 + 2**192 + 2**96 - 1
_EXPLICIT_P256 = der.sequence(der.integer(1), der.sequence(bytes.fromhex("06072a8648ce3d0101"), der.integer(_P256)))
_POINT = (
    ec.derive_private_key(7, ec.SECP256R1()).public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
)
_SMALL_PRIMES = [n for n in range(3, 168) if all(n % d for d in range(2, n))]


@cache
def _modulus() -> int:
    return rsa.generate_private_key(65537, 2048).public_key().public_numbers().n


def _next_prime(start: int) -> int:
    candidate = start | 1
    while pow(2, candidate - 1, candidate) != 1:  # a pseudoprime would do as well here
        candidate += 2
    return candidate


@cache
def _fermat() -> bytes:
    prime = _next_prime(math.isqrt(1 << 2047) + (1 << 900))
    return der.rsa_key(prime * _next_prime(prime + 2), 65537)


@cache
def _roca() -> bytes:
    product = math.prod(_SMALL_PRIMES)
    residue = pow(65537, 4711, product)
    factor = (1 << 2047) // product + 1
    while any((factor * product + residue) % prime == 0 for prime in range(2, 752)):
        factor += 1
    return der.rsa_key(factor * product + residue, 65537)


def _of(key: object) -> bytes:
    public: bytes = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    return public


BAD_KEYS: dict[str, Callable[[], bytes]] = {
    "028-rsa-1024": lambda: der.rsa_key((1 << 1023) | 1, 65537),
    "029-rsa-2047": lambda: der.rsa_key((1 << 2046) | 1, 65537),
    "029-rsa-2056": lambda: der.rsa_key((1 << 2055) | 1, 65537),
    "030-rsa-16384": lambda: der.rsa_key((1 << 16383) | 1, 65537),
    "031-e-1": lambda: der.rsa_key(_modulus(), 1),
    "032-e-3": lambda: der.rsa_key(_modulus(), 3),
    "033-even": lambda: der.rsa_key(_modulus() + 1, 65537),
    "small-factor": lambda: der.rsa_key(751 * ((1 << 2038) + 1), 65537),
    "034-fermat": _fermat,
    "035-roca": _roca,
    "036-p224": lambda: _of(ec.generate_private_key(ec.SECP224R1())),
    "036-p521": lambda: _of(ec.generate_private_key(ec.SECP521R1())),
    "036-secp256k1": lambda: _of(ec.generate_private_key(ec.SECP256K1())),
    "036-explicit": lambda: der.ec_key(_POINT, _EXPLICIT_P256),
    "036-infinity": lambda: der.ec_key(b"\x00"),
    "036-off-curve": lambda: der.ec_key(_POINT[:-1] + bytes([_POINT[-1] ^ 1])),
    "037-dsa": lambda: _of(dsa.generate_private_key(1024)),
    "037-ed448": lambda: _of(ed448.Ed448PrivateKey.generate()),
    "037-x25519": lambda: _of(x25519.X25519PrivateKey.generate()),
    "037-ml-dsa": lambda: _of(mldsa.MLDSA65PrivateKey.generate()),
    "038-ed25519": lambda: _of(ed25519.Ed25519PrivateKey.generate()),
}
