"""HTTP requests to `CheckAttributes`, `CheckAnswer` to HTTP responses: the two dialects of ext_authz without gRPC.

**envoy**: the filter's `http_service` sends the request once more to us: the same method, the same Host, our prefix
before the same path. **nginx**: `auth_request` sends a request of its own, and named headers say what the client's was.
Which one a request speaks is a matter of the path's prefix, which the proxy's configuration writes; never of a header.

A denial is never a 5xx: that is an *error* to both, which Envoy's `failure_mode_allow` lets pass.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from app.decision.attributes import CheckAnswer, CheckAttributes
from app.identity.xfcc import HEADER as XFCC
from app.limits import CheckLimits
from app.policy.effects import OWN_METADATA, Effects
from app.rpc.call import REPLY_RESERVE_SECONDS
from app.rpc.check_answers import DECISION_HEADER, answer_metadata, denial_body, joined

Headers = dict[str, list[str]]
RawHeaders = Sequence[tuple[bytes, bytes]]

_NO_DIALECT = "the path begins with the prefix of no dialect: set the path prefix in the proxy"
_LONG_BODY = "the request body that the proxy sent is longer than check.max_body_bytes"
_OK, _UNAUTHORIZED, _FORBIDDEN, _FIRST_ERROR = 200, 401, 403, 500
_BODILESS = frozenset({204, 304})  # RFC 9110 §8.6: without a length
_IDENTITY_WORD = "URI="
_OUR_PREFIX = "x-gatehouse-"
_OUR_NAMES = {"decision_id": "decision"}
_HEADERS_TO_REMOVE = "x-envoy-auth-headers-to-remove"
_EXPECTED_TIMEOUT = "x-envoy-expected-rq-timeout-ms"
_MAX_DIGITS = 9
_LONGEST_PORT = 65_535


class Dialect(Enum):
    """How a proxy asks."""

    ENVOY = "envoy"
    NGINX = "nginx"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpDialects:
    """What a listener speaks, and which headers of the proxy it believes. Names are lower case.

    A prefix of None turns a dialect off, an empty one gives it the whole listener. An empty name of a header: that is
    not said. The proxy must set each header that is named here, whatever its client sent.
    """

    envoy_prefix: str | None = "/envoy"
    nginx_prefix: str | None = "/nginx"
    identity_header: str = ""  # URI= and the SPIFFE ID of the client
    source_header: str = ""  # the client's address, with or without a port
    destination_header: str = ""  # where the client connected to, with its port
    method_header: str = "x-original-method"  # these three are nginx's
    uri_header: str = "x-original-uri"
    host_header: str = "x-original-host"
    upstream_headers: frozenset[str] = frozenset()  # that the proxy takes from our answer in place of the client's

    def find(self, target: str) -> tuple[Dialect, str] | None:
        """The dialect of a request target, and what follows the prefix."""
        for dialect, prefix in ((Dialect.ENVOY, self.envoy_prefix), (Dialect.NGINX, self.nginx_prefix)):
            if prefix is not None and target.startswith(prefix):
                rest = target[len(prefix) :]
                if not prefix or rest[:1] in ("", "/", "?", "*"):
                    return dialect, rest
        return None


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A response."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""


class _UnreadableError(Exception):
    """What a request lacks or says twice."""


def read_check(
    method: str, target: str, raw_headers: RawHeaders, dialects: HttpDialects, limits: CheckLimits, body: bytes = b""
) -> tuple[Dialect, CheckAttributes]:
    """What a request asks; what is wrong with it is said in `problem`, never raised."""
    found = dialects.find(target)
    if found is None:
        return Dialect.ENVOY, CheckAttributes(problem=_NO_DIALECT)
    dialect, rest = found
    if len(raw_headers) > limits.max_header_count:
        return dialect, CheckAttributes(problem="the request has more headers than check.max_header_count")
    if sum(len(name) + len(value) for name, value in raw_headers) > limits.max_header_bytes:
        return dialect, CheckAttributes(problem="the request headers are longer than check.max_header_bytes")
    if len(body) > limits.max_body_bytes:
        return dialect, CheckAttributes(problem=_LONG_BODY)
    headers = _read_headers(raw_headers)
    try:
        if dialect is Dialect.ENVOY:
            attributes = _from_envoy(method, rest, headers, dialects)
        else:
            attributes = _from_nginx(headers, dialects)
    except _UnreadableError as error:
        return dialect, CheckAttributes(problem=str(error))
    attributes.document = lambda: _document(attributes, body)
    return dialect, attributes


def seconds_left(attributes: CheckAttributes, dialect: Dialect) -> float | None:
    """How long providers may take, so that the answer comes before the proxy gives up; None where it does not say.

    Envoy writes it over whatever a client may have written. Without an answer in time it would count an error.
    """
    if dialect is not Dialect.ENVOY:
        return None
    text = "".join(attributes.headers.get(_EXPECTED_TIMEOUT, ()))
    if not text.isascii() or not text.isdigit() or len(text) > _MAX_DIGITS:
        return None
    return max(0.0, int(text) / 1_000 - REPLY_RESERVE_SECONDS)


def _read_headers(raw_headers: RawHeaders) -> Headers:
    """Lower-case names; bytes that are no UTF-8 become `!`, as Envoy makes them before it asks over gRPC."""
    headers: Headers = {}
    for name, value in raw_headers:
        text = value.decode("utf-8", "replace").replace("\ufffd", "!")
        headers.setdefault(name.decode("latin-1").lower(), []).append(text)
    return headers


def _from_envoy(method: str, path: str, headers: Headers, dialects: HttpDialects) -> CheckAttributes:
    return _attributes(method, path, _one(headers, "host"), headers, dialects)


def _from_nginx(headers: Headers, dialects: HttpDialects) -> CheckAttributes:
    # nginx passes on what the client sent, this header too: nobody vouches for it.
    headers.pop(XFCC, None)
    method, path, host = (
        _taken(headers, name) for name in (dialects.method_header, dialects.uri_header, dialects.host_header)
    )
    return _attributes(method, path, host, headers, dialects)


def _attributes(method: str, path: str, host: str, headers: Headers, dialects: HttpDialects) -> CheckAttributes:
    principal = _principal(headers, dialects.identity_header)
    source_ip, _ = _address(headers, dialects.source_header)
    destination_ip, port = _address(headers, dialects.destination_header)
    headers["host"] = [host]
    headers[":authority"], headers[":method"], headers[":path"] = [host], [method], [path]
    return CheckAttributes(
        source_principal=principal,
        source_ip=source_ip,
        destination_ip=destination_ip,
        destination_port=port,
        method=method,
        path=path,
        host=host,
        headers=headers,
    )


def _document(attributes: CheckAttributes, body: bytes) -> dict[str, Any]:
    """The `AttributeContext` that the same request would have made over gRPC, as far as HTTP says it."""
    http = {
        "method": attributes.method,
        "path": attributes.path,
        "host": attributes.host,
        "headers": {name: ",".join(values) for name, values in attributes.headers.items()},
        "protocol": "HTTP/1.1",
        **_body_members(body),
    }
    source = _peer_document(attributes.source_ip, 0)
    if attributes.source_principal:
        source["principal"] = attributes.source_principal
    return {
        "source": source,
        "destination": _peer_document(attributes.destination_ip, attributes.destination_port),
        "request": {"http": http},
    }


def _body_members(body: bytes) -> dict[str, str]:
    try:
        return {"body": body.decode()} if body else {}
    except UnicodeDecodeError:
        return {"rawBody": base64.b64encode(body).decode()}


def _peer_document(address: str, port: int) -> dict[str, Any]:
    if not address:
        return {}
    return {"address": {"socketAddress": {"address": address, "portValue": port}}}


def _principal(headers: Headers, name: str) -> str:
    """The SPIFFE ID after `URI=`.

    Envoy leaves a client's header in place when what it should set is empty. With a word before the ID it never is. So
    a proxy that is set up in the way that lets clients in, without the word, is of no use to anybody.
    """
    value = _taken(headers, name, required=False)
    if value and not value.startswith(_IDENTITY_WORD):
        raise _UnreadableError(f"the header {name} does not begin with URI=: let the proxy set it so, also when empty")
    return value.removeprefix(_IDENTITY_WORD)


def _one(headers: Mapping[str, Sequence[str]], name: str) -> str:
    values = headers.get(name, ())
    if len(values) > 1:
        raise _UnreadableError(f"the header {name} is there more than once")
    return values[0] if values else ""


def _taken(headers: Headers, name: str, *, required: bool = True) -> str:
    """The value of a header that the proxy sets; no rule sees the header itself."""
    if not name:
        return ""
    value = _one(headers, name)
    if required and not value:
        raise _UnreadableError(f"the header {name} is missing: let the proxy set it")
    headers.pop(name, None)
    return value


def _address(headers: Headers, name: str) -> tuple[str, int]:
    """An IP address and a port, 0 without one."""
    text = _taken(headers, name)
    if not text:
        return "", 0
    host, port = text, "0"
    if text.startswith("[") or text.count(":") == 1:
        host, _, port = text.rpartition(":") if not text.endswith("]") else (text, "", "0")
    try:
        address, number = str(ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))), int(port)
    except ValueError:
        number = -1
    if not 0 <= number <= _LONGEST_PORT:
        raise _UnreadableError(f"the header {name} is not an IP address with or without a port")
    return address, number


def carried_problem(effects: Effects, dialect: Dialect, dialects: HttpDialects) -> str:
    """What of an allowing answer would get lost on the way; empty when nothing does.

    Then the service would go by what the client wrote. Envoy takes over what its `allowed_upstream_headers` name and
    nginx what it is told to set, and neither says so; a header that nginx sets is also gone where there is no value.
    """
    if effects.query_to_set or effects.query_to_remove:
        return "the answer changes query parameters, for which ext_authz over HTTP has no words"
    names = {name for name, _ in effects.headers}
    if dialect is Dialect.NGINX:
        names.update(effects.headers_to_remove)
    lost = sorted(names - dialects.upstream_headers)
    if lost:
        return f"the answer changes the header {lost[0]}: let the proxy take it over and name it in upstream_headers"
    return ""


def write_answer(answer: CheckAnswer, dialect: Dialect, decision_id: str) -> HttpAnswer:
    """The response; of a denial the client of an Envoy sees all of it, so that it says nothing but the id.

    Effects must have passed `app.policy.effects`.
    """
    decision, effects = answer.decision, answer.effects
    headers = [(DECISION_HEADER, decision_id)]
    if decision.allowed or dialect is Dialect.NGINX:
        headers = list(_metadata(answer, decision_id))
    headers += _theirs(joined(effects.headers) if decision.allowed else effects.headers)
    if not decision.allowed:
        status = _denial_status(effects.status, dialect)
        return _response(status, headers, denial_body(decision, effects, status))
    headers += _theirs(effects.response_headers)
    if effects.headers_to_remove:
        headers.append((_HEADERS_TO_REMOVE, ", ".join(effects.headers_to_remove)))
    return _response(_OK, headers, "")


def _metadata(answer: CheckAnswer, decision_id: str) -> Iterable[tuple[str, str]]:
    """For the proxy's log and its filters; it hands on to client or upstream only what its configuration names."""
    for name, value in answer_metadata(answer, decision_id).items():
        if name in OWN_METADATA and value != "":
            text = "".join(character if character.isprintable() else "?" for character in _text(value))
            yield _OUR_PREFIX + _OUR_NAMES.get(name, name.replace("_", "-")), text


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _theirs(headers: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    """Without what would pass for our own word."""
    return ((name, value) for name, value in headers if not name.startswith(_OUR_PREFIX) and name != _HEADERS_TO_REMOVE)


def _denial_status(wanted: int, dialect: Dialect) -> int:
    """200 would allow, 5xx be an error; to nginx, everything but 401 and 403 is one."""
    if dialect is Dialect.NGINX:
        return wanted if wanted == _UNAUTHORIZED else _FORBIDDEN
    return wanted if _OK < wanted < _FIRST_ERROR else _FORBIDDEN


def _response(status: int, headers: Iterable[tuple[str, str]], body: str) -> HttpAnswer:
    data = body.encode()
    # A value that begins or ends with a space does not exist in HTTP/1.1.
    encoded = [(name.encode("latin-1"), value.strip(" \t").encode()) for name, value in headers]
    if data or status not in _BODILESS:
        encoded.append((b"content-length", str(len(data)).encode()))
    if data and not any(name == b"content-type" for name, _ in encoded):
        encoded.append((b"content-type", b"text/plain; charset=utf-8"))
    return HttpAnswer(status, encoded, data)
