"""Bytes to `CheckAttributes`: what a request of Envoy's ext_authz v3 asks.

Parsing reads only what decisions are made from; headers are looked up in the parsed message when a rule asks for one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from google.protobuf.json_format import MessageToDict, SerializeToJsonError
from google.protobuf.message import DecodeError

from app.decision.attributes import CheckAttributes
from app.limits import CheckLimits
from app.rpc.pb.ext_authz_pb2 import AttributeContext, CheckRequest


class _Headers(Mapping[str, Sequence[str]]):
    """The header map of the parsed message, each value as a sequence of one (Envoy joined duplicates by commas)."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> Sequence[str]:
        return (self._values[name],)

    def get(self, name: str, default: Any = None) -> Any:
        """The values of a header; not through an exception, as most headers that rules name are absent."""
        value = self._values.get(name)
        return default if value is None else (value,)

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def decode_check(data: bytes, limits: CheckLimits) -> CheckAttributes:
    """What the bytes ask; what is wrong with them is said in `problem`, never raised."""
    try:
        attributes = CheckRequest.FromString(data).attributes
    except DecodeError:
        return CheckAttributes(problem="the request is not valid protobuf")
    if not (attributes.HasField("source") or attributes.HasField("destination")):
        return CheckAttributes(problem="the request says neither where it comes from nor where it goes")
    source = attributes.source
    destination = attributes.destination
    to = destination.address.socket_address
    if not attributes.request.HasField("http"):
        return CheckAttributes(
            protocol="tcp",
            source_principal=source.principal,
            source_certificate=source.certificate,
            source_ip=source.address.socket_address.address,
            destination_ip=to.address,
            destination_port=to.port_value,
            sni=attributes.tls_session.sni or destination.service,
            destination_principal=destination.principal,
            context_extensions=attributes.context_extensions,
            document=lambda: _document(attributes),
        )
    http = attributes.request.http
    headers, problem = _headers(http, len(data), limits)
    if len(data) > limits.max_body_bytes and not problem and _body_size(http) > limits.max_body_bytes:
        problem = "the request body that the proxy sent is longer than check.max_body_bytes"
    return CheckAttributes(
        source_principal=source.principal,
        source_certificate=source.certificate,
        source_ip=source.address.socket_address.address,
        destination_ip=to.address,
        destination_port=to.port_value,
        method=http.method,
        path=http.path,
        host=http.host,
        headers=headers,
        sni=attributes.tls_session.sni,
        destination_principal=destination.principal,
        context_extensions=attributes.context_extensions,
        problem=problem,
        document=lambda: _document(attributes),
    )


def _document(attributes: AttributeContext) -> dict[str, Any]:
    """The attributes in protobuf's JSON mapping; headers stand in `headers` also where they came as `header_map`.

    A policy of a provider looks there, and would take a header that stands elsewhere for one that is absent.

    Raises:
        ValueError: for numbers in metadata that JSON has not.
    """
    try:
        document: dict[str, Any] = MessageToDict(attributes)
    except SerializeToJsonError as error:
        raise ValueError("the attributes hold what JSON cannot") from error
    http = attributes.request.http
    if http.HasField("header_map"):
        document["request"]["http"]["headers"] = {name: ",".join(values) for name, values in _raw_headers(http).items()}
    return document


def _body_size(http: AttributeContext.HttpRequest) -> int:
    return max(len(http.raw_body), len(http.body))  # a character is at least a byte


def _headers(
    http: AttributeContext.HttpRequest, message_bytes: int, limits: CheckLimits
) -> tuple[Mapping[str, Sequence[str]], str]:
    """The headers, and what is wrong with them."""
    values = http.headers
    if http.HasField("header_map"):
        headers: Mapping[str, Sequence[str]] = _raw_headers(http)
        count = len(http.header_map.headers)
    else:
        headers = _Headers(values)
        count = len(values)
    if count > limits.max_header_count:
        return headers, "the request has more headers than check.max_header_count"
    # The whole message bounds its headers; only a large one is worth counting.
    if message_bytes > limits.max_header_bytes:
        size = sum(len(name) + sum(map(len, headers[name])) for name in headers)
        if size > limits.max_header_bytes:
            return headers, "the request headers are longer than check.max_header_bytes"
    return headers, ""


def _raw_headers(http: AttributeContext.HttpRequest) -> dict[str, list[str]]:
    """Headers as Envoy sends them with `encode_raw_headers`: duplicates apart, bytes as they came.

    Bytes that are no UTF-8 become `!`, which is what Envoy makes of them otherwise.
    """
    headers: dict[str, list[str]] = {}
    for header in http.header_map.headers:
        raw = header.raw_value
        value = raw.decode("utf-8", "replace").replace("\ufffd", "!") if raw else header.value
        headers.setdefault(header.key.lower(), []).append(value)
    return headers
