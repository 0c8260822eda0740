"""The input document of a Rego decision is the one that opa-envoy-plugin makes, and no request breaks it."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from app.errors import AppError, ErrorCode
from app.limits import RegoLimits
from app.policy.rego_input import CallerFacts, input_document, input_json, parsed_path

LIMITS = RegoLimits()
CALLER = CallerFacts(principal="spiffe://cluster.local/ns/shop/sa/cart", claims={"sub": "ann"})


def _attributes(
    path: str = "/", *, body: str = "", headers: dict[str, str] | None = None, raw: bytes = b""
) -> dict[str, Any]:
    http: dict[str, Any] = {"method": "POST", "path": path, "host": "orders.shop", "headers": headers or {}}
    if body:
        http["body"] = body
    if raw:
        http["rawBody"] = base64.b64encode(raw).decode()
    return {
        "source": {
            "address": {"socketAddress": {"address": "10.0.0.1", "portValue": 3000}},
            "principal": "spiffe://a/b",
        },
        "request": {"http": http},
    }


def _document(*args: Any, **kwargs: Any) -> dict[str, Any]:
    return input_document(_attributes(*args, **kwargs), CALLER, LIMITS)


@pytest.mark.parametrize(
    ("path", "segments", "query"),
    [
        ("/", [""], {}),
        ("", [""], {}),
        ("/orders", ["orders"], {}),
        ("/orders/7/", ["orders", "7", ""], {}),
        ("/orders?a=1&b=x%20y&a=2", ["orders"], {"a": ["1", "2"], "b": ["x y"]}),
        ("/or%64ers/%2e%2e/x", ["orders", "..", "x"], {}),
        ("/a%252fb", ["a%2fb"], {}),
        ("/a%2Fb?empty=&flag&=v", ["a", "b"], {"empty": [""], "flag": [""], "": ["v"]}),
        ("/a?q=1+2%2B3&broken=100%", ["a"], {"q": ["1 2+3"], "broken": ["100%"]}),
        ("/a#fragment?x=1", ["a"], {}),
        ("/a//b", ["a", "", "b"], {}),
        ("/caf%C3%A9/%ff", ["café", "\ufffd"], {}),
    ],
)
def test_path_and_query_are_cut_and_decoded_once(path: str, segments: list[str], query: dict[str, list[str]]) -> None:
    """Cut at `?`, decoded once, leading slashes dropped, split at slashes."""
    document = _document(path)

    assert segments == document["parsed_path"]
    assert query == document["parsed_query"]


@pytest.mark.parametrize("path", ["//admin/users", "///admin/users", "//admin//users", "/%2Fadmin/users"])
def test_ghsa_9f29_v6mm_pw6w_leading_slashes_hide_no_segment(path: str) -> None:
    """What follows `//` is a segment like any other, never the name of a host."""
    assert "admin" == parsed_path(path)[0]


@pytest.mark.parametrize("path", ["/%", "/a%2", "/%zz", "/a%2/b?x=1"])
def test_a_path_with_a_broken_escape_is_malformed(path: str) -> None:
    """opa-envoy-plugin answers 400; here the caller makes a denial of it."""
    with pytest.raises(AppError) as caught:
        _document(path)

    assert ErrorCode.MALFORMED == caught.value.code


def test_the_document_has_every_key_of_the_plugin_and_one_of_ours() -> None:
    """Policies find what they know; who we know the caller to be stands beside it."""
    attributes = _attributes("/orders")
    document = input_document(attributes, CALLER, LIMITS)

    assert attributes == document["attributes"]
    assert {"ext_authz": "v3", "encoding": "protojson"} == document["version"]
    assert "spiffe://a/b" == document["source_principal"]
    assert {"principal": "spiffe://cluster.local/ns/shop/sa/cart", "claims": {"sub": "ann"}} == document["gatehouse"]
    assert (None, False) == (document["parsed_body"], document["truncated_body"])


MULTIPART = (
    b'--x\r\ncontent-disposition: form-data; name="who"\r\n\r\nann\r\n'
    b'--x\r\ncontent-disposition: form-data; name="order"\r\ncontent-type: application/json\r\n\r\n{"n": 1}\r\n--x--\r\n'
)


@pytest.mark.parametrize(
    ("content_type", "body", "parsed"),
    [
        ("application/json", b'{"a": [1, null, "x"]}', {"a": [1, None, "x"]}),
        ("application/json; charset=utf-8", b"[1]", [1]),
        ("Application/JSON", b'"text"', "text"),
        ("application/x-www-form-urlencoded", b"a=1&b=2&a=3%20", {"a": ["1", "3 "], "b": ["2"]}),
        ("multipart/form-data; boundary=x", MULTIPART, {"who": ["ann"], "order": [{"n": 1}]}),
        ("text/plain", b"words", None),
        ("", b"{}", None),
    ],
)
def test_bodies_are_parsed_by_their_content_type(content_type: str, body: bytes, parsed: Any) -> None:
    """JSON, forms and multipart, from the text and from the raw body alike."""
    headers = {"content-type": content_type, "content-length": str(len(body))}

    assert parsed == _document(body=body.decode(), headers=headers)["parsed_body"]
    assert parsed == _document(raw=body, headers=headers)["parsed_body"]


@pytest.mark.parametrize(
    ("headers", "truncated"),
    [
        ({"x-envoy-auth-partial-body": "true"}, True),
        ({"x-envoy-auth-partial-body": "false"}, False),
        ({"content-length": "3"}, True),
        ({"content-length": "2"}, False),
        ({"content-length": "no number"}, False),
    ],
)
def test_a_partial_body_is_said_to_be_and_not_parsed(headers: dict[str, str], truncated: bool) -> None:
    """Half a document must not be taken for a whole one."""
    document = _document(body="{}", headers={"content-type": "application/json", **headers})

    assert truncated == document["truncated_body"]
    assert (None if truncated else {}) == document["parsed_body"]


@pytest.mark.parametrize(
    "body",
    ['{"a":1,"b":2,"a":1}', '{"a":', "NaN", '{"a": Infinity}', "[" * 40 + "]" * 40, "[" * 100_000, "1" * 5_000],
    ids=["a name twice", "half", "nan", "infinity", "deep", "very deep", "long number"],
)
def test_case_094_a_json_body_that_is_none_is_malformed(body: str) -> None:
    """Also one that would end the parser by its depth, or has numbers that JSON has not."""
    with pytest.raises(AppError) as caught:
        _document(body=body, headers={"content-type": "application/json"})

    assert ErrorCode.MALFORMED == caught.value.code


def test_case_094_a_number_beyond_every_bound_never_reaches_a_policy() -> None:
    """1e400 is infinity to Python, and JSON has no word for it."""
    with pytest.raises(AppError) as in_the_body:
        _document(body="[1e400]", headers={"content-type": "application/json"})
    with pytest.raises(AppError) as elsewhere:
        input_json({"gatehouse": {"claims": {"n": float("inf")}}}, LIMITS)

    assert [ErrorCode.MALFORMED] * 2 == [caught.value.code for caught in (in_the_body, elsewhere)]


@pytest.mark.parametrize("content_type", ["multipart/form-data", "multipart/form-data; boundary=other"])
def test_a_multipart_body_without_its_boundary_is_malformed(content_type: str) -> None:
    """It is not silently taken for an empty form."""
    with pytest.raises(AppError):
        _document(raw=MULTIPART, headers={"content-type": content_type})


def test_case_088_the_document_is_bounded() -> None:
    """By its size, and by the number of its parameters."""
    with pytest.raises(AppError, match=r"rego\.max_input_bytes"):
        input_json(_document("/" + "a" * LIMITS.max_input_bytes), LIMITS)
    with pytest.raises(AppError, match=r"rego\.max_input_fields"):
        _document("/?" + "a&" * LIMITS.max_input_fields + "b")


def test_the_bytes_are_ascii_and_say_what_the_request_said() -> None:
    """Quotes, control characters and lone surrogates arrive as they are."""
    hostile = 'a"b\\c\x00\u2028\ud800é'
    data = input_json(_document(headers={"x": hostile}), LIMITS)

    assert data.isascii()
    assert hostile == json.loads(data)["attributes"]["request"]["http"]["headers"]["x"]


def test_attributes_of_no_request_make_a_document_all_the_same() -> None:
    """A TCP Check has no HTTP; a policy may decide on addresses."""
    document = input_document({}, CallerFacts(), LIMITS)

    assert [""] == document["parsed_path"]
