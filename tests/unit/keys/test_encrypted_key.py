"""A key in a file for a safe: OpenSSL and the library read it, and nothing but the passphrase opens it."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from app.keys.encrypted_key import encrypt_key
from app.keys.passphrase import Passphrase
from app.keys.private_key import generate_key
from tests.support.openssl import needs_openssl, openssl

SECRET = b"correct horse battery staple"


@pytest.mark.parametrize("kind", ["P-256", "RSA"])
def test_it_comes_back_with_its_passphrase_alone(kind: str) -> None:
    """The numbers are the same; another passphrase opens nothing; twice is two different files."""
    key = generate_key() if kind == "P-256" else rsa.generate_private_key(65_537, 2_048)
    file = encrypt_key(key, Passphrase(SECRET))

    opened = load_pem_private_key(file, SECRET)
    assert key.private_numbers() == opened.private_numbers()  # type: ignore[union-attr]
    assert file != encrypt_key(key, Passphrase(SECRET))
    with pytest.raises(ValueError, match=r"."):
        load_pem_private_key(file, SECRET + b"r")


@needs_openssl
def test_openssl_reads_it_and_sees_scrypt(tmp_path: Path) -> None:
    """Within its bound of memory."""
    file = tmp_path / "root-key.pem"
    file.write_bytes(encrypt_key(generate_key(), Passphrase(SECRET)))
    said = openssl("pkey", "-in", file, "-passin", f"pass:{SECRET.decode()}", "-noout", "-text")
    assert said.startswith("Private-Key: (256 bit)")
    assert "scrypt" in openssl("asn1parse", "-in", file)
