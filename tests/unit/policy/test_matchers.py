"""String forms, templates, address blocks, ports."""

from __future__ import annotations

import pytest

from app.policy.matchers import (
    block_matcher,
    parse_block,
    parse_port,
    path_matcher,
    string_matcher,
    template_matcher,
    template_problem,
)


@pytest.mark.parametrize(
    ("value", "text", "expected"),
    [
        ("a", "a", True),
        ("a", "A", False),
        ("a", "ab", False),
        ("*", "a", True),
        ("*", "", False),
        ("a*", "a", True),
        ("a*", "abc", True),
        ("a*", "ba", False),
        ("*a", "ba", True),
        ("*a", "ab", False),
        ("a*b", "axb", False),
        ("a*b", "a*b", True),
        ("*a*", "xa*", True),
        ("*a*", "xay", False),
        ("**", "x*", True),
        ("**", "x", False),
        ("a.c", "abc", False),
        ("a**", "a*b", True),
        ("a**", "ab", False),
    ],
)
def test_string_forms(value: str, text: str, expected: bool) -> None:
    """A leading star is looked at first; a star elsewhere is literal unless it is the last character."""
    assert expected is bool(string_matcher([value])(text))
    assert expected is bool(string_matcher([value, "never", "never*", "*never"])(text))


@pytest.mark.parametrize(
    ("template", "path", "expected"),
    [
        ("/a/{*}", "/a/b", True),
        ("/a/{*}", "/a/", False),
        ("/a/{*}", "/a/b/", False),
        ("/a/{*}", "/a/*", True),
        ("/a/{*}/c", "/a/b/c", True),
        ("/{**}", "/", True),
        ("/{**}", "/a/b", True),
        ("/a/{**}", "/a", False),
        ("/a/{**}", "/a/", True),
        ("/a/{**}", "/b/", False),
        ("/a/{**}/z", "/a//z", True),
        ("/a/{**}/z", "/a/z", False),
        ("/a/{**}/z", "/a/b/c/z", True),
        ("/a/{**}/z", "/a/b/c/z/", False),
        ("/{*}/b/{**}", "/a/b/", True),
        ("/{*}/b/{**}", "//b/", False),
        ("/{*}", "/a;b=%2f~!$&'()*+,@:", True),
        ("/{*}", "/\u00e9", True),
    ],
)
def test_templates(template: str, path: str, expected: bool) -> None:
    """`{*}` is one segment that is not empty, `{**}` is anything."""
    assert expected is template_matcher(template)(path)
    assert expected is path_matcher([template, "/never"])(path)


@pytest.mark.parametrize(
    "template", ["/{*}", "/{**}", "/a/{*}/b/{**}", "/a/{**}/b", "/{*}/{*}/", "/a-._~%20!$&'()+,;:@=/{*}"]
)
def test_valid_templates(template: str) -> None:
    """Operators are whole segments, `{**}` is the last of them."""
    assert template_problem(template) is None


@pytest.mark.parametrize(
    "template",
    [
        "{*}",
        "/{*}.txt",
        "/a{**}",
        "/{**}/{*}",
        "/{**}/a/{**}",
        "/*/{*}",
        "/{a}/{*}",
        "/{*}/b*",
        "/{*}/a?b",
        "/{*}/{",
        "/{*}/\u00e9",
    ],
)
def test_invalid_templates(template: str) -> None:
    """What Envoy would refuse is refused."""
    assert template_problem(template) is not None


@pytest.mark.parametrize(
    ("block", "address", "expected"),
    [
        ("10.0.0.0/8", "10.255.0.1", True),
        ("10.0.0.0/8", "11.0.0.1", False),
        ("10.1.2.3/24", "10.1.2.200", True),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.33", False),
        ("0.0.0.0/0", "255.255.255.255", True),
        ("0.0.0.0/0", "::1", False),
        ("2001:db8::/32", "2001:db8:ffff::1", True),
        ("2001:db8::/32", "2001:db9::1", False),
        ("10.0.0.0/8", "::ffff:10.0.0.1", True),
        ("::ffff:10.0.0.0/104", "10.0.0.1", True),
        ("10.0.0.0/8", "", False),
        ("10.0.0.0/8", "10.0.0.1%eth0", False),
        ("10.0.0.0/8", "localhost", False),
    ],
)
def test_blocks(block: str, address: str, expected: bool) -> None:
    """Host bits are masked; what is no address lies in no block; a mapped address is the IPv4 one."""
    assert expected is block_matcher([block])(address)


@pytest.mark.parametrize(
    "text",
    ["", "10.0.0", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/255.0.0.0", "x", "::1/129", "10.0.0.0/8 ", "1.2.3.4/"],
)
def test_what_is_no_block(text: str) -> None:
    """Only an address, or an address and a prefix length in digits."""
    assert parse_block(text) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("65535", 65535),
        ("65536", None),
        ("-1", None),
        ("", None),
        ("8 0", None),
        ("\u0668", None),
        ("080", 80),
    ],
)
def test_ports(text: str, expected: int | None) -> None:
    """0 to 65535 in plain digits."""
    assert expected == parse_port(text)
