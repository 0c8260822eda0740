"""What the authority process and its signer say to each other: everything comes back, nothing hostile gets through."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.authority.authorities.authority_ports import NewKey, StoredAuthority
from app.errors import AppError, ErrorCode
from app.keys import signer_wire
from app.keys.key_ring import KeyRing
from app.keys.signer_desk import SignerDesk
from app.keys.signer_settings import SignerSettings, TokenSettings
from app.keys.signer_wire import (
    FrameReader,
    Kind,
    Message,
    decode_authority,
    decode_error,
    decode_new_key,
    decode_signed,
    encode,
    encode_authority,
    encode_error,
    encode_new_key,
    encode_signed,
)
from tests.support.certificates import NOW, TRUST_DOMAIN
from tests.support.key_keeper import cheap_sealer

MESSAGES = st.lists(
    st.builds(
        Message,
        st.sampled_from([int(kind) for kind in Kind]),
        st.integers(0, 2**32 - 1),
        st.lists(st.binary(max_size=300), max_size=5),
    ),
    max_size=4,
)


@given(messages=MESSAGES, cut=st.integers(1, 40))
def test_messages_come_back_however_the_stream_cuts_them(messages: list[Message], cut: int) -> None:
    """In order, whole, whatever pieces a read brings."""
    stream = b"".join(encode(message) for message in messages)
    reader = FrameReader()
    found = [message for at in range(0, len(stream), cut) for message in reader.feed(stream[at : at + cut])]
    assert messages == found


@given(data=st.binary(max_size=400))
def test_bytes_that_are_no_frames_are_refused_or_waited_for(data: bytes) -> None:
    """Never an exception of another kind."""
    try:
        list(FrameReader().feed(data))
    except AppError as error:
        assert ErrorCode.INTERNAL is error.code  # noqa: PT017 - either way is fine, another kind is not


@pytest.mark.parametrize(
    "frame",
    [
        struct.pack(">I", 2**32 - 1),
        struct.pack(">I", 0),
        struct.pack(">IBI", 7, 1, 1) + b"\0\0",
        struct.pack(">IBII", 10, 1, 1, 9) + b"x",
        struct.pack(">IBI", 5 + 4 * 5000, 1, 1) + bytes(4 * 5000),
    ],
    ids=["4 GiB", "no head", "half a length", "a field beyond its frame", "too many fields"],
)
def test_frames_that_lie_about_their_size_are_refused(frame: bytes) -> None:
    """Before anything is allocated for them."""
    with pytest.raises(AppError, match="not understood"):
        list(FrameReader().feed(frame))


def test_a_message_that_is_too_large_is_not_sent() -> None:
    """The sender says so, instead of losing the connection."""
    with pytest.raises(AppError) as caught:
        encode(Message(Kind.SIGN_CRL, 1, [bytes(signer_wire.MAX_FRAME_BYTES)]))
    assert ErrorCode.TOO_LARGE is caught.value.code


def test_values_come_back() -> None:
    """Errors, answers, authorities, keys, settings."""
    error = decode_error(encode_error(AppError(ErrorCode.UNAVAILABLE, "away", diagnosis="why")))
    assert (ErrorCode.UNAVAILABLE, "away", "why") == (error.code, error.detail, error.diagnosis)
    assert b"signature" == decode_signed(encode_signed(b"signature"))
    assert isinstance(decode_signed(encode_signed(error)), AppError)
    authority = StoredAuthority(
        id="a", role="issuing", state="active", certificate_pem="pem", chain_pem="chain", sealed_key=b"\x00sealed",
        key_ref="file:/x", created_at=NOW,
    )  # fmt: skip
    assert authority == decode_authority(encode_authority(authority))
    key = NewKey(public_key_der=b"public", sealed=b"sealed", key_ref="pkcs11:a")
    assert key == decode_new_key(encode_new_key(key))
    settings = SignerSettings(
        trust_domain="cluster.local",
        environment=("A",),
        token=TokenSettings(module="/m", token_label="t", pin_file=""),
    )
    for each in (settings, SignerSettings(trust_domain="cluster.local")):
        assert each == SignerSettings.from_bytes(each.to_bytes())


@pytest.mark.parametrize("field", [b"", b"{}", b"[]", b"\xff", b'{"code": "nothing", "detail": "", "diagnosis": ""}'])
def test_values_that_cannot_be_read_are_errors_of_ours(field: bytes) -> None:
    """And never exceptions of a parser."""
    assert ErrorCode.INTERNAL is decode_error(field).code
    for read in (lambda: decode_authority([field, b""]), lambda: SignerSettings.from_bytes(field)):
        with pytest.raises(AppError):
            read()
    with pytest.raises(AppError):
        decode_new_key([field])


@pytest.mark.parametrize("kind", [0, 63, 255, *(int(kind) for kind in Kind if kind < Kind.DONE)])
@pytest.mark.parametrize("fields", [(), (b"\xff",), (b"a",) * 4, (b"", b"")])
def test_the_desk_answers_whatever_it_is_asked(kind: int, fields: tuple[bytes, ...]) -> None:
    """One answer with the question's number; a strange question fails and shows nothing of what it held."""
    desk = SignerDesk(KeyRing(cheap_sealer(), trust_domain=TRUST_DOMAIN, now=lambda: NOW))
    answer = desk.answer(Message(kind, 7, fields), [])
    assert 7 == answer.number
    assert answer.kind in (Kind.DONE, Kind.FAILED)
