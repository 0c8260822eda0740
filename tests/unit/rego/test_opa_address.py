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
     "unix://run/opa.sock", "http://opa\r\nx: y", "http://opa:0", "https://*.opa", "https://opa shop", "https://op\u00e4"],
)  # fmt: skip
def test_what_is_none(url: str) -> None:
    """Neither paths nor credentials belong here."""
    with pytest.raises(AppError):
        OpaAddress.parse(url)


@pytest.mark.parametrize(
    ("url", "private"),
    [
        ("https://opa.shop", True),
        ("unix:///run/opa.sock", True),
        ("http://localhost:8181", True),
        ("http://127.0.0.2", True),
        ("http://[::1]:8181", True),
        ("http://[::ffff:127.0.0.1]", True),
        ("http://10.0.0.1", False),
        ("http://localhost.evil.example", False),
        ("http://127.0.0.1.evil.example", False),
        ("http://2130706433", False),
    ],
)
def test_where_nobody_reads_along(url: str, private: bool) -> None:
    """TLS, or what does not leave the host by the way it is written."""
    assert private == OpaAddress.parse(url).is_private


@pytest.mark.parametrize("url", ["https://opa.shop:443", "http://[::1]:8181", "unix:///run/opa.sock"])
def test_an_address_is_shown_as_it_is_written_in_settings(url: str) -> None:
    """With its port, so that it can be copied."""
    assert url == str(OpaAddress.parse(url))
