"""Forwarded client certificates: when `x-forwarded-client-cert` is believed, and what it says.

At an Istio waypoint the connection that the filters see has no TLS, so `source.principal` is empty and XFCC
carries the caller's identity instead. Anybody can write a header: XFCC is believed only where the proxy that
wrote it is known, and only when it reads exactly as that proxy writes it. The grammar is Envoy's (elements
divided by commas, pairs by semicolons, values quoted when they hold one of `,;="`), read without repair.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from app.errors import AppError, ErrorCode
from app.identity.caller import UNAUTHENTICATED, CallerIdentity, IdentityState
from app.identity.spiffe import is_spiffe_id

HEADER = "x-forwarded-client-cert"
MAX_XFCC_CHARS = 16_384  # a quoted certificate chain may be in it

ANNOTATION_HINT = (
    "the waypoint did not say who the caller is: set the annotation "
    'ambient.istio.io/xfcc-include-client-identity: "true" on the waypoint Gateway (Istio 1.30 or newer)'
)
_MALFORMED_HINT = "x-forwarded-client-cert does not read as a waypoint writes it: one element, one By, one URI"
_BY_HINT = "the By of x-forwarded-client-cert is not the proxy that called"
_UNTRUSTED_HINT = (
    "x-forwarded-client-cert is not believed from this caller: register the waypoint as an EnforcementPoint with "
    "its listener or its SPIFFE ID"
)

_PAIR = re.compile(r'([A-Za-z]+)=(?:"((?:[^"\\]|\\.)*)"|([^",;=\\\s]*))')
_KEYS = frozenset({"by", "hash", "cert", "chain", "subject", "uri", "dns"})


@dataclass(frozen=True, slots=True)
class Xfcc:
    """The keys of one XFCC element that matter here, as written; each may be empty.

    `hash` is the SHA-256 of the peer's certificate in hexadecimal, `cert` the certificate as URL-encoded PEM.
    """

    by: str
    uri: str
    hash: str = ""
    cert: str = ""


class XfccTrust(Enum):
    """Why the header may be believed at the point that asks."""

    NONE = "none"
    LOCAL = "local"  # the worker shares the waypoint's pod and listens on loopback
    AUTHENTICATED = "authenticated"  # mutual TLS: By must equal the authenticated peer
    ASSERTED = "asserted"  # a ztunnel in front admits registered waypoints only: By is taken at its word


def _malformed(reason: str) -> AppError:
    return AppError(ErrorCode.MALFORMED, f"x-forwarded-client-cert: {reason}")


def parse_xfcc(text: str) -> Xfcc:
    """Parse a header that holds exactly one element with exactly one `By` and exactly one `URI`.

    Raises:
        AppError: `MALFORMED` for anything else.
    """
    if len(text) > MAX_XFCC_CHARS:
        raise _malformed("too long")
    if not text.isascii() or not text.isprintable():
        raise _malformed("a character that is not printable ASCII")
    found: dict[str, str] = {}
    position = 0
    while True:
        pair = _PAIR.match(text, position)
        if pair is None:
            raise _malformed("not a key and a value")
        key = pair[1].lower()
        if key not in _KEYS:
            raise _malformed("an unknown key")
        if key in found and key != "dns":
            raise _malformed(f"more than one {pair[1]}")
        found[key] = pair[3] if pair[2] is None else re.sub(r"\\(.)", r"\1", pair[2])
        position = pair.end()
        if position == len(text):
            break
        if text[position] != ";":
            raise _malformed("more than one element, or a value that should be quoted")
        position += 1
    if "by" not in found or "uri" not in found:
        raise _malformed("By or URI is missing")
    return Xfcc(found["by"], found["uri"], found.get("hash", "").lower(), found.get("cert", ""))


@lru_cache(maxsize=2_048)
def _parse_cached(text: str) -> Xfcc | None:
    try:
        return parse_xfcc(text)
    except AppError:
        return None


def read_xfcc(values: Sequence[str]) -> Xfcc | None:
    """The element of a header given by its values, or None when it is malformed or there are several headers."""
    if len(values) != 1 or len(values[0]) > MAX_XFCC_CHARS:  # too long to be remembered, too
        return None
    return _parse_cached(values[0])


@lru_cache(maxsize=16_384)
def _authenticated(principal: str, asserted: bool) -> CallerIdentity:
    return CallerIdentity(IdentityState.AUTHENTICATED, principal, asserted)


def _unavailable(hint: str) -> CallerIdentity:
    return CallerIdentity(IdentityState.UNAVAILABLE, hint=hint)


_ABSENT = _unavailable(ANNOTATION_HINT)
_MALFORMED = _unavailable(_MALFORMED_HINT)
_OTHER_BY = _unavailable(_BY_HINT)
_UNTRUSTED = _unavailable(_UNTRUSTED_HINT)


def from_principal(principal: str) -> CallerIdentity:
    """The identity behind a non-empty `source.principal`.

    Envoy falls back to a DNS SAN and then to the subject of the peer's certificate; neither is a SPIFFE ID, and
    neither counts.
    """
    return _authenticated(principal, False) if is_spiffe_id(principal) else UNAUTHENTICATED


def resolve_caller(
    *,
    source_principal: str,
    xfcc: Sequence[str],
    trust: XfccTrust,
    at_waypoint: bool,
    expected_by: str = "",
) -> CallerIdentity:
    """Who sent the request, as far as the enforcing proxy can tell.

    Args:
        source_principal: `attributes.source.principal`; it wins whenever it is not empty.
        xfcc: the values of the header `x-forwarded-client-cert`, none when it is absent.
        trust: why XFCC may be believed here.
        at_waypoint: whether the enforcing proxy is, or may be, a waypoint: there an empty `source.principal`
            says nothing, while at a sidecar or gateway it says that the peer had no certificate.
        expected_by: the authenticated peer, for `XfccTrust.AUTHENTICATED`.
    """
    if source_principal:
        return from_principal(source_principal)
    if not at_waypoint:
        return UNAUTHENTICATED
    if trust is XfccTrust.NONE:
        return _UNTRUSTED
    if not xfcc:
        return _ABSENT
    element = read_xfcc(xfcc)
    return _MALFORMED if element is None else _from_element(element, trust, expected_by)


def _from_element(element: Xfcc, trust: XfccTrust, expected_by: str) -> CallerIdentity:
    if not is_spiffe_id(element.by):
        return _MALFORMED
    if trust is XfccTrust.AUTHENTICATED and element.by != expected_by:
        return _OTHER_BY
    match element.uri:
        case "-":  # the waypoint looked, and the peer's certificate had no URI SAN
            return UNAUTHENTICATED
        case "":  # the waypoint's filter state was missing
            return _ABSENT
        case uri if is_spiffe_id(uri):
            return _authenticated(uri, trust is XfccTrust.ASSERTED)
        case _:
            return _MALFORMED
