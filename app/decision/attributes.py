"""What a Check asks and who asks it, free of any wire format; what it is answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from app.policy.decision import Decision
from app.policy.effects import NO_EFFECTS, Effects
from app.policy.shadow import ShadowVerdict

_NO_HEADERS: Mapping[str, Sequence[str]] = {}


class Transport(Enum):
    """How the enforcing proxy reaches this listener."""

    LOCAL = "local"  # plaintext on loopback or a UNIX socket: whoever is here shares the pod or the host
    BEHIND_ZTUNNEL = "behind_ztunnel"  # plaintext from a ztunnel that admits registered waypoints only
    MUTUAL_TLS = "mutual_tls"


@dataclass(frozen=True, slots=True)
class Peer:
    """The proxy that called: by which listener, and as whom when the connection was mutual TLS."""

    listener: str
    transport: Transport
    spiffe_id: str = ""


@dataclass(slots=True, kw_only=True)
class CheckAttributes:
    """One Check as received. Not frozen, and headers not copied, for the microseconds; nobody changes one.

    `problem` names what a codec found wrong with the bytes; such a request is denied as `MALFORMED`.
    `headers` has lower-case names. `document` makes a fresh `AttributeContext` in protobuf's JSON mapping (camelCase,
    64-bit numbers as strings, bytes in base64) with everything that the proxy sent, for providers; it raises ValueError
    for what JSON cannot hold.
    """

    protocol: str = "http"  # http or tcp
    source_principal: str = ""
    source_certificate: str = ""  # URL-encoded PEM, where the proxy sends it
    source_ip: str = ""
    destination_ip: str = ""
    destination_port: int = 0
    method: str = ""
    path: str = ""
    host: str = ""
    headers: Mapping[str, Sequence[str]] = field(default_factory=lambda: _NO_HEADERS)
    sni: str = ""
    destination_principal: str = ""  # of the proxy's own certificate, where it ends mutual TLS
    context_extensions: Mapping[str, str] | None = None  # what the proxy's configuration says about the route
    problem: str = ""
    document: Callable[[], dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class CheckAnswer:
    """A decision, what it was made from and what it does; `identity` is how the caller's identity was known.

    `shadow` is None where no policy is tried out, or none was asked. `stale` says that the authority was not heard for
    `check.stale_after_seconds`, so that there may be newer rules.
    """

    decision: Decision
    number: int = 0
    revision: int = 0
    identity: str = "unknown"  # authenticated, asserted, unauthenticated, unavailable, unknown
    effects: Effects = NO_EFFECTS
    shadow: ShadowVerdict | None = None
    stale: bool = False
