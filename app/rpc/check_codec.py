"""Bytes to `CheckAttributes`, `CheckAnswer` to bytes: everything of Envoy's ext_authz v3 that is about the wire.

Parsing reads only what decisions are made from; headers are looked up in the parsed message when a rule asks for one.
Answers repeat: all that differs between two answers by the same rule of the same snapshot is the decision id, so the
encoded message is kept and the id, which has a fixed length, is put into it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from google.protobuf.message import DecodeError

from app.decision.attributes import CheckAnswer, CheckAttributes
from app.limits import CheckLimits
from app.policy.decision import Reason
from app.policy.shadow import ShadowVerdict
from app.rpc.pb.ext_authz_pb2 import AttributeContext, CheckRequest, CheckResponse, HeaderValueOption

DECISION_HEADER = "x-gatehouse-decision"
DECISION_ID_CHARS = 24

_DENIED_BODY = "RBAC: access denied"  # what Envoy's own filter says: nothing that an attacker could use
_UNAVAILABLE_BODY = "no authorization decision is available"
_PLACEHOLDER = "@" * DECISION_ID_CHARS  # no name of a policy has such a character
_MAX_TEMPLATES = 4_096

# google.rpc.Code, for logs and metrics on the way: Envoy only looks whether it is zero.
_RPC_CODE = {
    Reason.MALFORMED: 3,
    Reason.TIMEOUT: 4,
    Reason.OVERLOADED: 8,
    Reason.INTERNAL: 13,
    Reason.NO_SNAPSHOT: 14,
    Reason.SNAPSHOT_TOO_OLD: 14,
    Reason.CALLER_UNKNOWN: 16,
}
_PERMISSION_DENIED = 7
_UNAVAILABLE_REASONS = frozenset({Reason.NO_SNAPSHOT, Reason.SNAPSHOT_TOO_OLD, Reason.OVERLOADED, Reason.TIMEOUT})


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
        )
    http = attributes.request.http
    headers, problem = _headers(http, len(data), limits)
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
        problem=problem,
    )


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


class CheckEncoder:
    """Encodes answers; one per process, because decision ids count up in it.

    `prefix` makes ids of different processes differ: 12 hex digits, fresh for each process.
    """

    def __init__(self, prefix: str) -> None:
        if len(prefix) != DECISION_ID_CHARS // 2:
            raise ValueError("a decision id prefix has 12 characters")
        self._prefix = prefix
        self._count = 0
        self._pieces: dict[CheckAnswer, list[bytes]] = {}

    def encode(self, answer: CheckAnswer) -> bytes:
        """The bytes of a `CheckResponse` with a new decision id."""
        pieces = self._pieces.get(answer)
        if pieces is None:
            pieces = self._remember(answer)
        self._count = count = self._count + 1
        return f"{self._prefix}{count:012x}".encode().join(pieces)

    def _remember(self, answer: CheckAnswer) -> list[bytes]:
        if len(self._pieces) >= _MAX_TEMPLATES:
            self._pieces.clear()
        pieces = check_response(answer, _PLACEHOLDER).SerializeToString(deterministic=True).split(_PLACEHOLDER.encode())
        self._pieces[answer] = pieces
        return pieces


def check_response(answer: CheckAnswer, decision_id: str) -> CheckResponse:
    """The answer as a message. Its status is always set: a missing one would mean "allowed"."""
    decision = answer.decision
    response = CheckResponse()
    if decision.allowed:
        response.status.code = 0
        response.ok_response.SetInParent()
    else:
        unavailable = decision.reason in _UNAVAILABLE_REASONS
        response.status.code = _RPC_CODE.get(decision.reason, _PERMISSION_DENIED)
        denied = response.denied_response
        denied.status.code = 503 if unavailable else 403
        denied.body = _UNAVAILABLE_BODY if unavailable else _DENIED_BODY
        option = denied.headers.add()
        option.header.key = DECISION_HEADER
        option.header.value = decision_id
        option.append_action = HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    response.status.SetInParent()
    # For the proxy's access log; the client never sees it.
    response.dynamic_metadata.update(
        {
            "decision_id": decision_id,
            "revision": answer.revision,
            "snapshot": answer.number,
            "policy": decision.policy,
            "rule": decision.rule,
            "reason": decision.reason.value,
            "identity": answer.identity,
            **({"hint": decision.hint} if decision.hint else {}),
            **(_shadow(answer.shadow) if answer.shadow is not None else {}),
        }
    )
    return response


def _shadow(verdict: ShadowVerdict) -> dict[str, str]:
    """What the policies that are tried out would make of it; flat, so that an access log can name each."""
    return {"shadow": verdict.outlook.value, "shadow_policy": verdict.policy, "shadow_rule": verdict.rule}
