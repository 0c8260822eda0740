"""Addresses of OPA servers."""

from __future__ import annotations

import pytest

from app.errors import AppError
from app.rego.opa_address import OpaAddress


@pytest.mark.parametrize(
    ("url", "address", "authority"),
    [
        ("http://127.0.0.1:8181", OpaAddress("127.0.0.1", 8181), "127.0.0.1:8181"),
        ("https://opa.shop/", OpaAddress("opa.shop", 443, is_tls=True), "opa.shop:443"),
        ("http://[::1]:8181", OpaAddress("::1", 8181), "[::1]:8181"),
        ("unix:///run/opa.sock", OpaAddress(socket_path="/run/opa.sock"), "localhost"),
    ],
)
def test_what_is_an_address(url: str, address: OpaAddress, authority: str) -> None:
    """TCP, TLS and UNIX sockets."""
    assert (address, authority) == (OpaAddress.parse(url), address.authority)


@pytest.mark.parametrize(
    "url",
    ["", "opa:8181", "ftp://opa", "http://", "http://opa/v1/data", "http://a:b@opa", "http://opa?x", "http://opa:99999",
     "unix://run/opa.sock", "http://opa\r\nx: y"],
)  # fmt: skip
def test_what_is_none(url: str) -> None:
    """Neither paths nor credentials belong here."""
    with pytest.raises(AppError):
        OpaAddress.parse(url)
