"""What a rule can ask about: one request, already free of any wire format.

`Request` is what the evaluator sees. Adapters and the caller resolution build it; the evaluator never sees
protobuf, ASGI or JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_NO_HEADERS: Mapping[str, Sequence[str]] = {}


class Unavailable(str):
    """The principal of a request whose sender the proxy could not tell: to every rule the empty text.

    Only questions have it. A worker knows the state of an identity beside its text, and denies before any rule is
    asked where the proxy demands an identity.
    """

    __slots__ = ()


UNAVAILABLE = Unavailable()


@dataclass(slots=True, kw_only=True)
class Request:
    """One request as the enforcing proxy saw it.

    Not frozen only because freezing costs a microsecond on the Check path; nobody changes one after it is complete.

    `principal` is the peer's full SPIFFE ID, or empty when the peer is not authenticated. `path` is the
    request target as sent to the filter, with its query. `headers` has lower-case names; a value that arrived
    comma-joined stays one string. `port` is the destination port as the enforcing proxy sees it.
    """

    protocol: str = "http"  # http, grpc or tcp
    principal: str = ""
    source_ip: str = ""
    remote_ip: str = ""  # the client after trusted X-Forwarded-For hops; empty means source_ip
    destination_ip: str = ""
    port: int = 0
    method: str = ""
    path: str = ""
    host: str = ""
    headers: Mapping[str, Sequence[str]] = field(default_factory=lambda: _NO_HEADERS)
    sni: str = ""
    claims: Mapping[str, Any] | None = None  # the payload of a verified token
    space_delimited_claims: frozenset[str] = frozenset()
    dynamic_metadata: Mapping[str, Any] | None = None


def is_preflight(request: Request) -> bool:
    """Whether this is a CORS preflight, which carries no credentials and is let through to the policies."""
    headers = request.headers
    return (
        request.method == "OPTIONS"
        and bool(headers.get("origin"))
        and bool(headers.get("access-control-request-method"))
    )
