"""The SPIFFE bundle document: what we write, and how strictly we read (X509-SVID §6.2)."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from app.ca.bundle import TrustBundle
from app.ca.spiffe_bundle import MAX_SPIFFE_BUNDLE_BYTES, parse_spiffe_bundle, write_spiffe_bundle
from app.errors import AppError, ErrorCode
from tests.support.certificates import TRUST_DOMAIN, make_csr, make_pki
from tests.support.istio_files import certificate, istiods_own, name

PKI = make_pki()
BUNDLE = TrustBundle.of(TRUST_DOMAIN, (PKI.root, istiods_own().root))
HINT = timedelta(minutes=5)


def written() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(write_spiffe_bundle(BUNDLE, sequence=7, refresh_hint=HINT))
    return document


def test_what_is_written() -> None:
    """Each root alone in an entry with its key, no kid, the sequence and the hint as whole numbers."""
    document = written()

    assert {"keys", "spiffe_sequence", "spiffe_refresh_hint"} == set(document)
    assert (7, 300) == (document["spiffe_sequence"], document["spiffe_refresh_hint"])
    assert [base64.b64encode(root.public_bytes(Encoding.DER)).decode() for root in BUNDLE.roots] == [
        key["x5c"][0] for key in document["keys"]
    ]
    shapes = {frozenset(key) for key in document["keys"]}
    assert {frozenset({"kty", "crv", "x", "y", "use", "x5c"}), frozenset({"kty", "n", "e", "use", "x5c"})} == shapes


def test_writing_and_reading_are_inverse() -> None:
    """RSA, P-256, P-384 and P-521 roots."""
    roots = [
        certificate(name(CN=curve.name), ec.generate_private_key(curve)) for curve in (ec.SECP384R1(), ec.SECP521R1())
    ]
    bundle = TrustBundle.of(TRUST_DOMAIN, (*BUNDLE.roots, *roots))
    found = parse_spiffe_bundle(write_spiffe_bundle(bundle, sequence=0, refresh_hint=HINT), TRUST_DOMAIN)

    assert (bundle, 0, HINT) == (found.bundle, found.sequence, found.refresh_hint)


def test_the_same_roots_give_the_same_bytes_whatever_their_order() -> None:
    """So that an entity tag holds."""
    other = TrustBundle.of(TRUST_DOMAIN, tuple(reversed(BUNDLE.roots)))
    assert write_spiffe_bundle(BUNDLE, sequence=1, refresh_hint=HINT) == write_spiffe_bundle(
        other, sequence=1, refresh_hint=HINT
    )


def test_entries_for_other_uses_and_unknown_members_are_left_out() -> None:
    """A bundle with JWT keys, as SPIRE publishes it."""
    document = written()
    document["keys"] += [{"kty": "EC", "use": "jwt-svid", "kid": "a"}, {"kty": "oct"}, {"use": "x509-other"}]
    document["later"] = {"a": 1}
    del document["spiffe_sequence"], document["spiffe_refresh_hint"]
    found = parse_spiffe_bundle(json.dumps(document).encode(), TRUST_DOMAIN)

    assert (BUNDLE, None, None) == (found.bundle, found.sequence, found.refresh_hint)


def _changed(**changes: Any) -> bytes:
    document = written()
    document["keys"][0] |= changes
    return json.dumps(document).encode()


def _without(field: str) -> bytes:
    document = written()
    del document["keys"][0][field]
    return json.dumps(document).encode()


def _leaf() -> str:
    return base64.b64encode(PKI.issue(make_csr()).der).decode()


GOOD = written()["keys"][0]["x5c"][0]
OTHER = written()["keys"][1]["x5c"][0]
BAD = {
    "not JSON": b"{",
    "deep": b'{"keys":' + b"[" * 100_000,
    "a list": b"[]",
    "no keys": b"{}",
    "keys of another type": b'{"keys": {}}',
    "a key of another type": b'{"keys": [1]}',
    "empty": b'{"keys": []}',
    "no x5c": _without("x5c"),
    "two in x5c": _changed(x5c=[GOOD, OTHER]),
    "none in x5c": _changed(x5c=[]),
    "a string as x5c": _changed(x5c=GOOD),
    "not base64": _changed(x5c=["!"]),
    "base64 with spaces": _changed(x5c=[GOOD[:40] + "\n" + GOOD[40:]]),
    "not a certificate": _changed(x5c=["AAAA"]),
    "a leaf": _changed(x5c=[_leaf()], kty="EC"),
    "a kid": _changed(kid="a"),
    "an empty kid": _changed(kid=""),
    "another key than the certificate's": _changed(x5c=[OTHER]),
    "a key twice": json.dumps(written()).replace('"spiffe_sequence": 7', '"spiffe_sequence": 7, "spiffe_sequence": 8').encode(),
    "a key of an entry twice": json.dumps(written()).replace('"use":', '"use": "jwt-svid", "use":').encode(),
    "sequence as text": json.dumps(written() | {"spiffe_sequence": "7"}).encode(),
    "sequence as a fraction": json.dumps(written() | {"spiffe_sequence": 7.0}).encode(),
    "sequence as a truth value": json.dumps(written() | {"spiffe_sequence": True}).encode(),
    "negative sequence": json.dumps(written() | {"spiffe_sequence": -1}).encode(),
    "huge sequence": json.dumps(written() | {"spiffe_sequence": 2**63}).encode(),
    "hint as text": json.dumps(written() | {"spiffe_refresh_hint": "300"}).encode(),
    "too many": json.dumps({"keys": [{}] * 300}).encode(),
    "too long": b" " * (MAX_SPIFFE_BUNDLE_BYTES + 1),
}  # fmt: skip


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_what_could_change_whom_we_trust_is_refused(data: bytes) -> None:
    """Nothing is repaired."""
    with pytest.raises(AppError) as failure:
        parse_spiffe_bundle(data, TRUST_DOMAIN)

    assert failure.value.code in (ErrorCode.MALFORMED, ErrorCode.INVALID)
