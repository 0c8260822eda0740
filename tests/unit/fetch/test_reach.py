"""Case 120: which addresses are the internet, which are somebody's inside, which are never asked."""

from __future__ import annotations

import ipaddress

import pytest

from app.fetch.reach import Reach, reach_of

CASES = {
    "8.8.8.8": Reach.PUBLIC,
    "2606:4700::1111": Reach.PUBLIC,
    "64:ff9b::808:808": Reach.PUBLIC,
    "10.0.0.1": Reach.PRIVATE,
    "172.31.255.255": Reach.PRIVATE,
    "192.168.1.1": Reach.PRIVATE,
    "100.64.0.1": Reach.PRIVATE,
    "fd12:3456::1": Reach.PRIVATE,
    "fec0::1": Reach.PRIVATE,
    "::ffff:10.0.0.1": Reach.PRIVATE,
    "64:ff9b::a00:1": Reach.PRIVATE,
    "2002:c0a8:0101::1": Reach.PRIVATE,
    "127.0.0.1": Reach.LOOPBACK,
    "127.8.8.8": Reach.LOOPBACK,
    "::1": Reach.LOOPBACK,
    "::ffff:127.0.0.1": Reach.LOOPBACK,
    "64:ff9b::7f00:1": Reach.LOOPBACK,
    "2002:7f00:1::": Reach.LOOPBACK,
    "169.254.169.254": Reach.FORBIDDEN,
    "::ffff:169.254.169.254": Reach.FORBIDDEN,
    "fe80::1": Reach.FORBIDDEN,
    "fd00:ec2::254": Reach.FORBIDDEN,
    "100.100.100.200": Reach.FORBIDDEN,
    "168.63.129.16": Reach.FORBIDDEN,
    "0.0.0.0": Reach.FORBIDDEN,
    "::": Reach.FORBIDDEN,
    "::127.0.0.1": Reach.FORBIDDEN,
    "224.0.0.1": Reach.FORBIDDEN,
    "ff02::1": Reach.FORBIDDEN,
    "255.255.255.255": Reach.FORBIDDEN,
    "240.0.0.1": Reach.FORBIDDEN,
}


@pytest.mark.parametrize(("address", "expected"), CASES.items())
def test_case_120_every_way_to_write_an_internal_address_is_seen_through(address: str, expected: Reach) -> None:
    """An address inside another one counts as what it is."""
    assert expected == reach_of(ipaddress.ip_address(address))
