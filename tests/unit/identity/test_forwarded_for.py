"""The original client behind trusted proxies."""

from __future__ import annotations

import pytest

from app.identity.forwarded_for import original_client

GATEWAY = "10.0.0.9"
BALANCER = "192.0.2.7"
CLIENT = "203.0.113.5"
FORGED = "127.0.0.1"


@pytest.mark.parametrize(
    ("values", "peer", "hops", "expected"),
    [
        ((), GATEWAY, 1, GATEWAY),
        ((CLIENT,), GATEWAY, 0, GATEWAY),
        ((CLIENT,), GATEWAY, 1, CLIENT),
        ((f"{FORGED}, {CLIENT}",), GATEWAY, 1, CLIENT),
        ((FORGED, CLIENT), GATEWAY, 1, CLIENT),
        ((f"{FORGED},{CLIENT} , {BALANCER}",), GATEWAY, 2, CLIENT),
        ((f"{CLIENT}, {BALANCER}",), BALANCER, 1, CLIENT),  # a gateway has appended its peer itself
        ((BALANCER,), BALANCER, 1, BALANCER),
        ((CLIENT,), GATEWAY, 2, GATEWAY),  # it did not come through two proxies
        (("unknown",), GATEWAY, 1, GATEWAY),
        ((f"{CLIENT}:4711",), GATEWAY, 1, GATEWAY),
        (("2001:db8::1",), GATEWAY, 1, "2001:db8::1"),
        (("fe80::1%eth0",), GATEWAY, 1, GATEWAY),
        (("",), GATEWAY, 1, GATEWAY),
        (("9" * 100_000,), GATEWAY, 1, GATEWAY),
        ((",".join([FORGED] * 10_000) + f",{CLIENT}",), GATEWAY, 1, CLIENT),
    ],
)
def test_the_client_is_before_the_trusted_hops(values: tuple[str, ...], peer: str, hops: int, expected: str) -> None:
    """What the trusted proxies wrote is believed, what stands left of it never is."""
    assert expected == original_client(values, peer, hops)
