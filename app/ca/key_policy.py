"""Which public keys may be certified.

Elliptic curve keys on P-256 and P-384, and RSA keys of 2048, 3072 or 4096 bits with the exponent 65537 whose
modulus shows none of the known marks of a broken generator: small factors, primes that are close together
(Fermat factorisation), the ROCA fingerprint (CVE-2017-15361). The checks are bounded: an RSA key of another size
is refused before any arithmetic on it.

Ed25519 is refused: neither ztunnel nor istio-agent makes such keys, and not every TLS peer of a mesh verifies them.
"""

from __future__ import annotations

import hashlib
import math

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from app.errors import AppError, ErrorCode

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

RSA_SIZES = frozenset({2048, 3072, 4096})
RSA_EXPONENT = 65537
FERMAT_ROUNDS = 110
_SMALL_PRIME_BOUND = 752
# The primes of the published ROCA test: a modulus of that generator is a power of 65537 modulo each of them.
_ROCA_PRIME_BOUND = 168


def _primes_below(bound: int) -> tuple[int, ...]:
    return tuple(n for n in range(3, bound) if all(n % d for d in range(2, math.isqrt(n) + 1)))


def _powers_of_65537(prime: int) -> frozenset[int]:
    return frozenset(pow(RSA_EXPONENT, exponent, prime) for exponent in range(prime - 1))


_SMALL_FACTORS = math.prod(_primes_below(_SMALL_PRIME_BOUND))
_ROCA_RESIDUES = tuple((prime, _powers_of_65537(prime)) for prime in _primes_below(_ROCA_PRIME_BOUND))


def _invalid(reason: str) -> AppError:
    return AppError(ErrorCode.INVALID, f"the CSR's key is not acceptable: {reason}")


def check_public_key(key: object) -> tuple[PublicKey, str]:
    """The key, and its type in words (`EC-P256`, `RSA-2048` ...).

    Raises:
        AppError: `INVALID`, naming the rule that the key breaks.
    """
    match key:
        case ec.EllipticCurvePublicKey(curve=ec.SECP256R1()):
            return key, "EC-P256"
        case ec.EllipticCurvePublicKey(curve=ec.SECP384R1()):
            return key, "EC-P384"
        case ec.EllipticCurvePublicKey():
            raise _invalid("elliptic curve keys must be on P-256 or P-384")
        case rsa.RSAPublicKey():
            _check_rsa(key)
            return key, f"RSA-{key.key_size}"
        case _:
            raise _invalid("unsupported key type; use ECDSA P-256, P-384, or RSA")


def key_hash(public_key_der: bytes) -> bytes:
    """The SHA-256 of a SubjectPublicKeyInfo, by which keys are compared."""
    return hashlib.sha256(public_key_der).digest()


def _check_rsa(key: rsa.RSAPublicKey) -> None:
    if key.key_size not in RSA_SIZES:
        raise _invalid("RSA keys must have 2048, 3072 or 4096 bits")
    numbers = key.public_numbers()
    if numbers.e != RSA_EXPONENT:
        raise _invalid("the RSA exponent must be 65537")
    if numbers.n % 2 == 0:
        raise _invalid("the RSA modulus is even")
    if math.gcd(numbers.n, _SMALL_FACTORS) != 1:
        raise _invalid("the RSA modulus has a small factor")
    if _is_roca(numbers.n):
        raise _invalid("the RSA key comes from a broken generator (ROCA)")
    if _has_close_primes(numbers.n):
        raise _invalid("the RSA primes are too close together")


def _is_roca(modulus: int) -> bool:
    return all(modulus % prime in residues for prime, residues in _ROCA_RESIDUES)


def _has_close_primes(modulus: int) -> bool:
    """Whether Fermat's method finds the factors within a bounded number of steps."""
    middle = math.isqrt(modulus)
    if middle * middle < modulus:
        middle += 1
    for candidate in range(middle, middle + FERMAT_ROUNDS):
        square = candidate * candidate - modulus
        root = math.isqrt(square)
        if root * root == square:
            return True
    return False
