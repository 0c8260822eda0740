"""Signatures over manifests."""

import pytest

from app.errors import AppError, ErrorCode
from app.link.signing import ManifestSigningKey, ManifestVerifier


def test_a_signature_holds_for_its_bytes_and_its_key_only() -> None:
    """Other bytes, another key, a cut or an empty signature: refused."""
    key = ManifestSigningKey(ManifestSigningKey.new_seed())
    verifier = ManifestVerifier.parse(key.public_text)
    signature = key.sign(b"manifest")
    verifier.verify(b"manifest", signature)
    other = ManifestSigningKey(ManifestSigningKey.new_seed())
    for data, wrong in (
        (b"manifesT", signature),
        (b"manifest", other.sign(b"manifest")),
        (b"manifest", signature[:-1]),
        (b"manifest", b""),
    ):
        with pytest.raises(AppError) as caught:
            verifier.verify(data, wrong)
        assert ErrorCode.UNAUTHENTICATED == caught.value.code


@pytest.mark.parametrize("text", ["", "abc", "AAAA", "not base64 at all!"])
def test_a_public_key_that_is_none_is_refused(text: str) -> None:
    """A worker does not start with half a key."""
    with pytest.raises(AppError) as caught:
        ManifestVerifier.parse(text)
    assert ErrorCode.INVALID == caught.value.code
