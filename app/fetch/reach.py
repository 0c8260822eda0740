"""Where an address leads: to the internet, to a private network, to this host, or nowhere that we may ask.

What counts is the address that a connection really goes to, so the IPv4 address inside an IPv6 one (mapped, NAT64,
6to4, Teredo) is looked at, and names are judged by what they resolve to (`app.fetch.client`).
"""

from __future__ import annotations

import ipaddress
from enum import StrEnum

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class Reach(StrEnum):
    """What is behind an address."""

    PUBLIC = "public"
    PRIVATE = "private"  # RFC 1918, unique local, carrier-grade NAT: somebody's inner network
    LOOPBACK = "loopback"
    FORBIDDEN = "forbidden"  # link-local, instance metadata, multicast, unspecified, reserved: never a server of ours


# Instance metadata and other services of cloud hosts that answer whoever asks from inside, outside 169.254.0.0/16.
_METADATA = frozenset(
    map(
        ipaddress.ip_address,
        ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16", "192.0.0.192"),
    )
)
_NAT64 = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))  # RFC 6052, RFC 8215
_SITE_LOCAL = ipaddress.ip_network("fec0::/10")  # deprecated by RFC 3879, routed inside some sites still
_IPV4_COMPATIBLE = ipaddress.ip_network("::/96")  # deprecated by RFC 4291 §2.5.5.1
_SHARED = ipaddress.ip_network("100.64.0.0/10")  # RFC 6598


def reach_of(address: IpAddress) -> Reach:
    """What is behind `address`."""
    address = _innermost(address)
    if address in _METADATA or address.is_link_local or address.is_multicast or address.is_unspecified:
        return Reach.FORBIDDEN
    if address.is_loopback:
        return Reach.LOOPBACK
    if address in _SITE_LOCAL or address in _SHARED:
        return Reach.PRIVATE
    if address in _IPV4_COMPATIBLE or address.is_reserved:
        return Reach.FORBIDDEN
    return Reach.PUBLIC if address.is_global else Reach.PRIVATE


def _innermost(address: IpAddress) -> IpAddress:
    """The IPv4 address that a transition mechanism carries inside an IPv6 one, or the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    inner = address.ipv4_mapped or address.sixtofour
    if inner is None and address.teredo is not None:
        inner = address.teredo[1]
    if inner is None and any(address in network for network in _NAT64):
        inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return inner or address
