"""X-Forwarded-For: which address is the original client's, when so many proxies before us are trusted.

What stands further to the left than the trusted proxies wrote is written by the client and is never read.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

HEADER = "x-forwarded-for"
MAX_TRUSTED_HOPS = 32

_MAX_ADDRESS_CHARS = 45  # an IPv4-mapped IPv6 address written out


def original_client(values: Sequence[str], peer: str, trusted_hops: int) -> str:
    """The client's address, `peer` (the direct peer's) where no hop is trusted or the header does not say it.

    `trusted_hops` proxies in a row end at the enforcing proxy: the direct peer is the first of them, and each has
    appended the address that it was called from. An enforcing proxy that has appended the direct peer itself, as
    gateways do, is recognised by that. A header with fewer addresses than hops, or with something else at the client's
    place, did not come through those proxies: then the direct peer is the client, as Envoy takes it.
    """
    if trusted_hops <= 0 or not values:
        return peer
    # INVARIANT: split from the right, so that a long header costs no more than the hops that are looked at.
    chain = [address.strip() for address in ",".join(values).rsplit(",", trusted_hops + 1)]
    if chain[-1] == peer:
        chain.pop()
    if len(chain) < trusted_hops:
        return peer
    client = chain[-trusted_hops]
    return client if _is_address(client) else peer


def _is_address(text: str) -> bool:
    if len(text) > _MAX_ADDRESS_CHARS or "%" in text:
        return False
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
