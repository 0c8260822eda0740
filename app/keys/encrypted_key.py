"""A private key for a safe: PKCS#8, encrypted by PBES2 with scrypt and AES-256-CBC (RFC 5958, RFC 8018, RFC 7914 §7).

The form that OpenSSL and everything built on it reads. Written here, because the library would derive the key with
PBKDF2 of few rounds, and a file that lies somewhere for ten years deserves better.
"""

from __future__ import annotations

import base64
import os
import textwrap
from collections.abc import Callable

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.padding import PKCS7

from app.ca.signing import AuthorityPrivateKey
from app.keys.passphrase import Passphrase
from app.keys.private_key import encode_key

_LABEL = "ENCRYPTED PRIVATE KEY"
_PBES2 = x509.ObjectIdentifier("1.2.840.113549.1.5.13")
_SCRYPT = x509.ObjectIdentifier("1.3.6.1.4.1.11591.4.11")
_AES_256_CBC = x509.ObjectIdentifier("2.16.840.1.101.3.4.1.42")
_SALT_BYTES, _KEY_BYTES, _BLOCK_BYTES = 16, 32, 16
_N, _R, _P = 1 << 14, 8, 5  # OpenSSL refuses scrypt that takes more than 32 MiB, so it is more rounds instead


@asn1.sequence
class _ScryptParameters:
    salt: bytes
    cost: int
    block_size: int
    parallelization: int


@asn1.sequence
class _Derivation:
    algorithm: x509.ObjectIdentifier
    parameters: _ScryptParameters


@asn1.sequence
class _Encryption:
    algorithm: x509.ObjectIdentifier
    iv: bytes


@asn1.sequence
class _Pbes2Parameters:
    derivation: _Derivation
    encryption: _Encryption


@asn1.sequence
class _Algorithm:
    algorithm: x509.ObjectIdentifier
    parameters: _Pbes2Parameters


@asn1.sequence
class _EncryptedPrivateKeyInfo:
    algorithm: _Algorithm
    encrypted: bytes


def encrypt_key(
    key: AuthorityPrivateKey, passphrase: Passphrase, *, random_bytes: Callable[[int], bytes] = os.urandom
) -> bytes:
    """The key as an `ENCRYPTED PRIVATE KEY` in PEM."""
    salt, iv = random_bytes(_SALT_BYTES), random_bytes(_BLOCK_BYTES)
    derived = Scrypt(salt=salt, length=_KEY_BYTES, n=_N, r=_R, p=_P).derive(passphrase.reveal())
    padder, cipher = PKCS7(8 * _BLOCK_BYTES).padder(), Cipher(AES256(derived), CBC(iv)).encryptor()
    padded = padder.update(encode_key(key)) + padder.finalize()
    parameters = _Pbes2Parameters(
        derivation=_Derivation(
            algorithm=_SCRYPT,
            parameters=_ScryptParameters(salt=salt, cost=_N, block_size=_R, parallelization=_P),
        ),
        encryption=_Encryption(algorithm=_AES_256_CBC, iv=iv),
    )
    der = asn1.encode_der(
        _EncryptedPrivateKeyInfo(
            algorithm=_Algorithm(algorithm=_PBES2, parameters=parameters),
            encrypted=cipher.update(padded) + cipher.finalize(),
        )
    )
    lines = textwrap.wrap(base64.b64encode(der).decode("ascii"), 64)
    return "\n".join((f"-----BEGIN {_LABEL}-----", *lines, f"-----END {_LABEL}-----", "")).encode("ascii")
