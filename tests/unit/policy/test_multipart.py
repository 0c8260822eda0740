"""Forms with parts: read in one way or not at all, and never for long."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest

from app.errors import AppError, ErrorCode
from app.policy.multipart import FormPart, read_form

FORM = "multipart/form-data; boundary=x"
NAMED = b'Content-Disposition: form-data; name="a"'


def _body(*parts: bytes) -> bytes:
    return b"".join(b"--x\r\n" + part + b"\r\n" for part in parts) + b"--x--\r\n"


def _read(body: bytes, content_type: str = FORM, *, max_parts: int = 8) -> list[FormPart]:
    return read_form(body, content_type, max_parts=max_parts)


@pytest.mark.parametrize(
    "content_type",
    [FORM, 'Multipart/Form-Data; charset=utf-8; boundary="x"', "multipart/form-data;boundary=x ;q=1"],
)
def test_the_fields_of_a_form_are_found(content_type: str) -> None:
    """Texts, files and empty ones, with the bytes as they are."""
    body = _body(
        NAMED + b"\r\n\r\n1",
        b'content-disposition: form-data; name="f"; filename="C:\\x;y.json"\r\ncontent-type: Application/JSON; q=1\r\n\r\n{}',
        b"Content-Disposition:form-data;name=b\r\nContent-Transfer-Encoding: binary\r\n\r\n-x\r\n\xff\r\n\r\n",
        NAMED + b"\r\n\r\n",
    )

    assert [
        FormPart("a", "", b"1"),
        FormPart("f", "application/json", b"{}"),
        FormPart("b", "", b"-x\r\n\xff\r\n\r\n"),
        FormPart("a", "", b""),
    ] == _read(body, content_type)


def test_a_form_without_fields_is_one() -> None:
    """Only its end is there."""
    assert [] == _read(b"--x--")


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (_body(NAMED + b"\r\n\r\n1"), "multipart/form-data"),
        (_body(NAMED + b"\r\n\r\n1"), "multipart/form-data; boundary=y"),
        (_body(NAMED + b"\r\n\r\n1"), "multipart/form-data; boundary=x; boundary=y"),
        (_body(NAMED + b"\r\n\r\n1"), 'multipart/form-data; boundary="x'),
        (_body(NAMED + b"\r\n\r\n1"), "multipart/form-data; boundary=é"),
        (b"preamble\r\n" + _body(NAMED + b"\r\n\r\n1"), FORM),
        (_body(NAMED + b"\r\n\r\n1") + b"epilogue", FORM),
        (_body(NAMED + b"\r\n\r\n1").removesuffix(b"--x--\r\n"), FORM),
        (_body(NAMED + b"\r\n\r\n1\r\n--xy"), FORM),
        (_body(NAMED + b"\r\n\r\n1\r\n--x--\r\n--x\r\n" + NAMED + b"\r\n\r\n2"), FORM),
        (_body(NAMED), FORM),
        (_body(NAMED + b"\r\n\r\n--x\r\n1"), FORM),
        (_body(b"\r\n1"), FORM),
        (_body(b"content-type: text/plain\r\n\r\n1"), FORM),
        (_body(b'content-disposition: attachment; name="a"\r\n\r\n1'), FORM),
        (_body(b"content-disposition: form-data\r\n\r\n1"), FORM),
        (_body(NAMED + b'; name="b"\r\n\r\n1'), FORM),
        (_body(NAMED + b"; name*=utf-8''b\r\n\r\n1"), FORM),
        (_body(b'content-disposition: form-data; name="a\\"b"\r\n\r\n1'), FORM),
        (_body(b'content-disposition: form-data;\r\n name="a"\r\n\r\n1'), FORM),
        (_body(NAMED + b"\r\n" + NAMED + b"\r\n\r\n1"), FORM),
        (_body(NAMED + b"\nx: y\r\n\r\n1"), FORM),
        (_body(NAMED + b"\r\ncontent-transfer-encoding: base64\r\n\r\nMQ=="), FORM),
        (_body(NAMED + b"\r\nx-%d: y" * 17 % tuple(range(17)) + b"\r\n\r\n1"), FORM),
        (_body(NAMED + b"\r\nx: " + b"y" * 9_000 + b"\r\n\r\n1"), FORM),
    ],
)
def test_what_can_be_read_in_two_ways_is_malformed(body: bytes, content_type: str) -> None:
    """The service behind us might take the other one."""
    with pytest.raises(AppError) as caught:
        _read(body, content_type)

    assert ErrorCode.MALFORMED == caught.value.code


def test_case_088_the_number_of_parts_is_bounded() -> None:
    """As many as the bound, and no more."""
    part = NAMED + b"\r\n\r\n1"

    assert 8 == len(_read(_body(*[part] * 8)))
    with pytest.raises(AppError) as caught:
        _read(_body(*[part] * 9))

    assert ErrorCode.TOO_LARGE == caught.value.code


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"x", FORM + "; a=b" * 12_000),
        (b"x", FORM + ";" * 60_000),
        (b"x", FORM + " \t" * 30_000),
        (_body(NAMED + b"; a%d=b" * 1_000 % tuple(range(1_000)) + b"\r\n\r\n1"), FORM),
        (_body(b"content-disposition: form-data; name=" + b'"' * 8_000 + b"\r\n\r\n1"), FORM),
        (_body(b"a:b\r\n" * 100_000), FORM),
        (_body(*[NAMED + b"\r\n\r\n1"] * 1_000), FORM),
        (b"\r\n--x" * 100_000, FORM),
    ],
)
def test_case_088_no_form_takes_long(body: bytes, content_type: str) -> None:
    """One request must not hold up the others: a header of 60 KB took seconds with the standard library's parser."""
    started = time.process_time()
    with suppress(AppError):
        _read(body, content_type, max_parts=1_000)

    assert time.process_time() - started < 0.2
