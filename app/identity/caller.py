"""Who sent a request, as far as the enforcing proxy could tell.

Three states that must not be mixed up: *authenticated* (a SPIFFE ID is known), *unauthenticated* (the proxy
looked and the peer had none: positive identity rules fail, negated ones hold) and *unavailable* (the proxy
could not tell us: nothing may be decided from it).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class IdentityState(Enum):
    """Whether and how the caller's identity is known."""

    AUTHENTICATED = "authenticated"
    UNAUTHENTICATED = "unauthenticated"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class CallerIdentity:
    """The outcome of identity resolution for one request.

    `principal` is the full `spiffe://` text when authenticated and empty otherwise. `asserted` marks an
    identity whose forwarder was not authenticated by us but admitted by a ztunnel in front. `hint` tells an
    operator what to switch on when the identity is unavailable.
    """

    state: IdentityState
    principal: str = ""
    asserted: bool = False
    hint: str = ""


UNAUTHENTICATED = CallerIdentity(IdentityState.UNAUTHENTICATED)
