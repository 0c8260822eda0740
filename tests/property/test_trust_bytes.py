"""Whatever bytes stand where roots are expected, the answer is roots or one clear error."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from app.ca.bundle import TrustBundle
from app.ca.parent import FILE_SETS, parse_parent
from app.ca.spiffe_bundle import parse_spiffe_bundle, write_spiffe_bundle
from app.errors import AppError, ErrorCode
from tests.support.certificates import TRUST_DOMAIN, make_pki
from tests.support.istio_files import small_plugged_in

GOOD = write_spiffe_bundle(
    TrustBundle.of(TRUST_DOMAIN, (make_pki().root,)), sequence=1, refresh_hint=timedelta(minutes=5)
)
SET = small_plugged_in(depth=2).without_key()
REFUSALS = {ErrorCode.MALFORMED, ErrorCode.INVALID}
_ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["keys", "use", "x5c", "kid", "kty", "spiffe_sequence"]), inner, max_size=4),
    max_leaves=15,
)  # fmt: skip


def _changed(data: bytes, at: int, byte: int, cut: int) -> bytes:
    changed = bytearray(data)
    changed[at % len(data)] = byte
    return bytes(changed[: max(0, len(data) - cut)])


@given(st.binary(max_size=300) | _ANY_JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_as_a_spiffe_bundle(data: bytes) -> None:
    """Nothing but an AppError comes out of what is none."""
    try:
        parse_spiffe_bundle(data, TRUST_DOMAIN)
    except AppError as error:
        assert error.code in REFUSALS  # noqa: PT017


@given(at=st.integers(0, 10_000), byte=st.integers(0, 255), cut=st.integers(0, 200))
def test_a_good_spiffe_bundle_with_a_byte_changed_or_its_end_cut(at: int, byte: int, cut: int) -> None:
    """It is read, or refused."""
    try:
        parse_spiffe_bundle(_changed(GOOD, at, byte, cut), TRUST_DOMAIN)
    except AppError as error:
        assert error.code in REFUSALS  # noqa: PT017


@given(
    name=st.sampled_from(sorted(SET)), at=st.integers(0, 10_000), byte=st.integers(0, 255), cut=st.integers(0, 2_000)
)
def test_a_parents_files_with_a_byte_changed_or_an_end_cut(name: str, at: int, byte: int, cut: int) -> None:
    """The chain that comes out is the one that stood there, or there is a clear error."""
    files = SET | {name: _changed(SET[name], at, byte, cut)}
    try:
        parent = parse_parent(files, FILE_SETS[0], trust_domain=TRUST_DOMAIN, now=datetime.now(UTC))
    except AppError as error:
        assert error.code in REFUSALS  # noqa: PT017
    else:
        for child, above in zip((parent.certificate, *parent.chain), (*parent.chain, parent.root), strict=True):
            child.verify_directly_issued_by(above)
