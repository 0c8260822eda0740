"""Path normalisation as Envoy does it in each mode of the mesh."""

from __future__ import annotations

import pytest

from app.policy.mesh import PathNormalization
from app.policy.paths import cut, normalize, remove_dot_segments

_MODES = (
    PathNormalization.NONE,
    PathNormalization.BASE,
    PathNormalization.MERGE_SLASHES,
    PathNormalization.DECODE_AND_MERGE_SLASHES,
)


@pytest.mark.parametrize(
    ("path", "none", "base", "merge", "decode"),
    [
        ("/app/../admin", "/app/../admin", "/admin", "/admin", "/admin"),
        ("/app/%2E./admin", "/app/%2E./admin", "/admin", "/admin", "/admin"),
        ("/app\\admin", "/app\\admin", "/app/admin", "/app/admin", "/app/admin"),
        ("/app//", "/app//", "/app//", "/app/", "/app/"),
        ("/app%2f/", "/app%2f/", "/app%2f/", "/app%2f/", "/app/"),
        (
            "/%2Fapp%5cadmin%5Cabc",
            "/%2Fapp%5cadmin%5Cabc",
            "/%2Fapp%5cadmin%5Cabc",
            "/%2Fapp%5cadmin%5Cabc",
            "/app/admin/abc",
        ),
        ("/app//../admin", "/app//../admin", "/app/admin", "/app/admin", "/app/admin"),
        ("/xyz%30..//abc", "/xyz%30..//abc", "/xyz0..//abc", "/xyz0../abc", "/xyz0../abc"),
        ("/app#foo", "/app", "/app", "/app", "/app"),
        ("/%252e%252e/a", "/%252e%252e/a", "/%252e%252e/a", "/%252e%252e/a", "/%252e%252e/a"),
        ("/a/..;/b", "/a/..;/b", "/a/..;/b", "/a/..;/b", "/a/..;/b"),
        ("/admin;a=b", "/admin;a=b", "/admin;a=b", "/admin;a=b", "/admin;a=b"),
        ("/a/.../b", "/a/.../b", "/a/.../b", "/a/.../b", "/a/.../b"),
        ("/%c0%ae/", "/%c0%ae/", "/%c0%ae/", "/%c0%ae/", "/%c0%ae/"),
        ("/a?b=/../c", "/a?b=/../c", "/a?b=/../c", "/a?b=/../c", "/a?b=/../c"),
        ("/../../a", "/../../a", "/a", "/a", "/a"),
        ("/a/..", "/a/..", "/", "/", "/"),
        ("/%41%5a%61%7A%5f%7e%2d%2E", "/%41%5a%61%7A%5f%7e%2d%2E", "/AZaz_~-.", "/AZaz_~-.", "/AZaz_~-."),
        ("/%5b%40%20", "/%5b%40%20", "/%5b%40%20", "/%5b%40%20", "/%5b%40%20"),
        ('/"<>^`{|}?"|', '/"<>^`{|}?"|', *3 * ('/%22%3C%3E%5E%60%7B%7C%7D?"|',)),
        ("/!$&'()*+,:;=@[]", "/!$&'()*+,:;=@[]", *3 * ("/!$&'()*+,:;=@[]",)),
        # What is nothing but slashes keeps two of them.
        ("//", "//", "//", "//", "//"),
        ("///?x", "///?x", "///?x", "//?x", "//?x"),
        ("/a/..//", "/a/..//", "//", "//", "//"),
        ("/%2f", "/%2f", "/%2f", "/%2f", "//"),
    ],
)
def test_modes(path: str, none: str, base: str, merge: str, decode: str) -> None:
    """The table of ISTIO-SECURITY-2021-005, and what is never normalised."""
    assert [none, base, merge, decode] == [normalize(path, mode) for mode in _MODES]


@pytest.mark.parametrize("mode", _MODES[1:])
def test_a_nul_is_rejected(mode: PathNormalization) -> None:
    """Envoy answers 400 to `%00` when it normalises."""
    assert normalize("/a%00b", mode) is None


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/a?b#c", "/a"), ("/a#b?c", "/a"), ("/a", "/a"), ("?", ""), ("/a?", "/a"), ("//a/b?x", "//a/b")],
)
def test_query_and_fragment_are_cut(path: str, expected: str) -> None:
    """What `paths` is compared with has neither."""
    assert expected == cut(path)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a/./b", "/a/b"),
        ("/a/.", "/a/"),
        ("/a/b/..", "/a/"),
        ("/..", "/"),
        ("/a//..", "/a/"),
        ("/.a/..b", "/.a/..b"),
        ("/./", "/"),
    ],
)
def test_dot_segments(path: str, expected: str) -> None:
    """RFC 3986 §5.2.4; an empty segment counts."""
    assert expected == remove_dot_segments(path)


@pytest.mark.parametrize("mode", [PathNormalization.BASE, PathNormalization.DECODE_AND_MERGE_SLASHES])
@pytest.mark.parametrize("form", ["%{:02x}", "%{:02X}"])
def test_which_encoded_bytes_are_decoded(mode: PathNormalization, form: str) -> None:
    """Unreserved characters in every mode that normalises, slashes in one; all other bytes stay as they are."""
    unreserved = b"-._~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    for byte in range(1, 256):
        encoded = form.format(byte)
        expected = chr(byte) if byte in unreserved else encoded
        if byte in b"/\\" and mode is PathNormalization.DECODE_AND_MERGE_SLASHES:
            expected = "/"
        assert f"/admin{expected}" == normalize(f"/admin{encoded}", mode)
