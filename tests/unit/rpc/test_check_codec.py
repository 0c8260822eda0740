"""The wire form of Check: what is read of a request."""

import pytest

from app.limits import CheckLimits
from app.rpc.check_codec import decode_check
from app.rpc.pb.ext_authz_pb2 import CheckRequest

LIMITS = CheckLimits()
PRINCIPAL = "spiffe://cluster.local/ns/web/sa/frontend"


def _request(**http: object) -> CheckRequest:
    request = CheckRequest()
    request.attributes.source.principal = PRINCIPAL
    request.attributes.source.address.socket_address.address = "10.0.0.9"
    request.attributes.destination.address.socket_address.address = "10.96.0.10"
    request.attributes.destination.address.socket_address.port_value = 8080
    request.attributes.request.http.method = "GET"
    request.attributes.request.http.path = "/orders?x=1"
    request.attributes.request.http.host = "orders:8080"
    for name, value in http.items():
        setattr(request.attributes.request.http, name, value)
    return request


def test_an_http_request_is_read() -> None:
    """Addresses, principal, method, path with its query, host, headers."""
    request = _request()
    request.attributes.request.http.headers["x-role"] = "user,admin"
    attributes = decode_check(request.SerializeToString(), LIMITS)
    assert ("http", PRINCIPAL, "10.0.0.9", "10.96.0.10", 8080, "GET", "/orders?x=1", "orders:8080", "") == (
        attributes.protocol,
        attributes.source_principal,
        attributes.source_ip,
        attributes.destination_ip,
        attributes.destination_port,
        attributes.method,
        attributes.path,
        attributes.host,
        attributes.problem,
    )
    assert ("user,admin",) == attributes.headers["x-role"] == attributes.headers.get("x-role")
    assert attributes.headers.get("absent", ()) == ()
    assert "x-role" in attributes.headers
    assert {"x-role": ("user,admin",)} == dict(attributes.headers)


def test_what_says_where_a_request_goes_is_read() -> None:
    """The proxy's own certificate and what its configuration says, for HTTP and TCP."""
    request = _request()
    request.attributes.destination.principal = "spiffe://cluster.local/ns/shop/sa/orders"
    request.attributes.context_extensions["gatehouse.dev/service"] = "shop/orders"
    for _ in ("http", "tcp"):
        attributes = decode_check(request.SerializeToString(), LIMITS)
        assert "spiffe://cluster.local/ns/shop/sa/orders" == attributes.destination_principal
        assert {"gatehouse.dev/service": "shop/orders"} == dict(attributes.context_extensions or {})
        request.attributes.request.ClearField("http")


def test_raw_headers_keep_duplicates_apart() -> None:
    """Names become lower case, values keep their order, bytes that are no UTF-8 become exclamation marks."""
    request = _request()
    for name, raw in (("X-Role", b"user"), ("x-role", b"admin"), ("x-raw", b"a\xffb")):
        header = request.attributes.request.http.header_map.headers.add()
        header.key = name
        header.raw_value = raw
    headers = decode_check(request.SerializeToString(), LIMITS).headers
    assert {"x-role": ["user", "admin"], "x-raw": ["a!b"]} == dict(headers)


def test_raw_headers_stand_where_policies_of_providers_look_for_headers() -> None:
    """Joined as Envoy joins them; a policy must not take a header that came otherwise for one that is absent."""
    request = _request()
    for name, raw in (("x-role", b"user"), ("x-role", b"admin"), ("x-envoy-auth-partial-body", b"true")):
        header = request.attributes.request.http.header_map.headers.add()
        header.key, header.raw_value = name, raw
    document = decode_check(request.SerializeToString(), LIMITS).document
    assert document is not None
    http = document()["request"]["http"]
    assert {"x-role": "user,admin", "x-envoy-auth-partial-body": "true"} == http["headers"]
    assert 3 == len(http["headerMap"]["headers"])


def test_case_080_a_request_without_http_is_a_tcp_request() -> None:
    """Nothing of HTTP is made up for it; the server name comes from TLS or from the destination's service."""
    request = _request()
    request.attributes.request.ClearField("http")
    request.attributes.destination.service = "db.example.com"
    attributes = decode_check(request.SerializeToString(), LIMITS)
    assert ("tcp", "", "", "db.example.com", "") == (
        attributes.protocol,
        attributes.method,
        attributes.path,
        attributes.sni,
        attributes.problem,
    )


@pytest.mark.parametrize("data", [b"", b"\xff\xff\xff", b"\x0a\x05abc", b"\x0a"])
def test_case_079_what_is_no_request_is_a_problem_and_no_exception(data: bytes) -> None:
    """Empty, cut or random bytes."""
    assert decode_check(data, LIMITS).problem


def test_case_079_invalid_utf8_in_a_string_is_a_problem() -> None:
    """Protobuf strings are UTF-8; a request whose path is not cannot be decided."""
    data = _request().SerializeToString().replace(b"/orders?x=1", b"/orders?\xff=1")
    assert decode_check(data, LIMITS).problem


def test_case_088_too_many_or_too_long_headers_are_a_problem() -> None:
    """Counted in both header forms; a large body alone is none."""
    many, long, body, raw = (_request() for _ in range(4))
    for i in range(1_001):
        many.attributes.request.http.headers[f"x-{i}"] = "v"
    long.attributes.request.http.headers["x-long"] = "v" * 140_000
    body.attributes.request.http.raw_body = b"x" * 900_000
    for _ in range(1_001):
        raw.attributes.request.http.header_map.headers.add().key = "x"
    problems = [decode_check(request.SerializeToString(), LIMITS).problem for request in (many, long, body, raw)]
    assert [True, True, False, True] == [bool(problem) for problem in problems]


def test_the_document_is_everything_that_the_proxy_sent() -> None:
    """Protobuf's JSON: camelCase, 64-bit numbers as strings, bytes in base64; made anew each time."""
    request = _request(id="77", scheme="https", protocol="HTTP/2", size=5, body="hello", raw_body=b"\xff")
    attributes = request.attributes
    attributes.request.time.FromJsonString("2026-08-01T10:00:00.5Z")
    attributes.request.http.headers["x-role"] = "user"
    attributes.source.labels["app"] = "web"
    attributes.context_extensions["virtual_host"] = "shop"
    attributes.metadata_context.filter_metadata["envoy.jwt"].update({"sub": "alice", "n": 1})
    attributes.tls_session.sni = "orders"
    document = decode_check(request.SerializeToString(), LIMITS).document
    assert document is not None
    expected = {
        "source": {
            "address": {"socketAddress": {"address": "10.0.0.9"}},
            "principal": PRINCIPAL,
            "labels": {"app": "web"},
        },
        "destination": {"address": {"socketAddress": {"address": "10.96.0.10", "portValue": 8080}}},
        "request": {
            "time": "2026-08-01T10:00:00.500Z",
            "http": {
                "id": "77",
                "method": "GET",
                "headers": {"x-role": "user"},
                "path": "/orders?x=1",
                "host": "orders:8080",
                "scheme": "https",
                "protocol": "HTTP/2",
                "size": "5",
                "body": "hello",
                "rawBody": "/w==",
            },
        },
        "contextExtensions": {"virtual_host": "shop"},
        "metadataContext": {"filterMetadata": {"envoy.jwt": {"sub": "alice", "n": 1.0}}},
        "tlsSession": {"sni": "orders"},
    }
    assert expected == document()
    document().clear()
    assert expected == document()


def test_a_document_that_json_cannot_hold_is_a_value_error() -> None:
    """Infinity in metadata; the decision without a provider does not care."""
    request = _request()
    request.attributes.metadata_context.filter_metadata["x"].fields["n"].number_value = float("inf")
    attributes = decode_check(request.SerializeToString(), LIMITS)
    assert ("", True) == (attributes.problem, attributes.document is not None)
    with pytest.raises(ValueError, match="JSON"):
        attributes.document()


def test_case_088_a_body_beyond_the_bound_is_a_problem() -> None:
    """In both forms; one that just fits is none, and nobody reads it when it is decided."""
    limits = CheckLimits(max_body_bytes=200_000)
    bodies = [{"raw_body": b"x" * 200_001}, {"body": "x" * 200_001}, {"raw_body": b"x" * 200_000}]
    problems = [decode_check(_request(**body).SerializeToString(), limits).problem for body in bodies]
    assert [True, True, False] == [bool(problem) for problem in problems]
