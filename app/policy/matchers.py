"""How one value is compared: string forms, path templates, address blocks, ports.

Nothing here builds a regular expression from what a policy says (CVE-2026-39350), so every comparison takes time
linear in its input. Semantics: the string forms of Istio's AuthorizationPolicy, where a leading star is looked at
first, a lone star wants a value, and a star in the middle is an ordinary character.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

Matches = Callable[[str], bool]

ONE_SEGMENT = "{*}"
ANY_SEGMENTS = "{**}"
_LITERAL = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~%!$&'()+,;:@=")


class StringForms:
    """The values of one field, sorted by how they compare."""

    __slots__ = ("exact", "prefixes", "presence", "suffixes")

    def __init__(self, values: Iterable[str]) -> None:
        exact, prefixes, suffixes = [], [], []
        self.presence = False
        for value in values:
            if value == "*":
                self.presence = True
            elif value.startswith("*"):
                suffixes.append(value[1:])
            elif value.endswith("*"):
                prefixes.append(value[:-1])
            else:
                exact.append(value)
        self.exact = frozenset(exact)
        self.prefixes = tuple(prefixes)
        self.suffixes = tuple(suffixes)

    @property
    def only_exact(self) -> bool:
        """Whether every value is compared whole."""
        return not (self.presence or self.prefixes or self.suffixes)

    def matcher(self) -> Matches:
        """The cheapest function that compares a string with all the values."""
        exact, prefixes, suffixes, presence = self.exact, self.prefixes, self.suffixes, self.presence
        if self.only_exact:
            return exact.__contains__
        if presence:  # whatever else is listed: any value will do
            return bool if "" not in exact else _always
        if not exact and not suffixes:
            return lambda text: text.startswith(prefixes)
        if not exact and not prefixes:
            return lambda text: text.endswith(suffixes)
        return lambda text: text in exact or text.startswith(prefixes) or text.endswith(suffixes)


def _always(_: str) -> bool:
    return True


def string_matcher(values: Iterable[str]) -> Matches:
    """Whether a string equals one of the values, by the string forms."""
    return StringForms(values).matcher()


def has_template(value: str) -> bool:
    """Whether a path value is a template rather than a string form."""
    return ONE_SEGMENT in value or ANY_SEGMENTS in value


def template_problem(value: str) -> str | None:
    """What is wrong with a path template, None when it is a valid one."""
    if not value.startswith("/"):
        return "a path template starts with '/'"
    segments = value.split("/")
    seen_any = False
    for segment in segments:
        if segment in (ONE_SEGMENT, ANY_SEGMENTS):
            if seen_any:
                return "{**} must be the last operator, and there is at most one"
            seen_any = segment == ANY_SEGMENTS
        elif not _LITERAL.issuperset(segment):
            return "an operator is a whole segment; other segments are letters, digits and -._~%!$&'()+,;:@="
    return None


def template_matcher(template: str) -> Matches:
    """Whether a path fits a template: `{*}` is one non-empty segment, `{**}` anything, also nothing, with slashes.

    Operators match every character but the slash (CVE-2025-46821 is about one that was forgotten).
    """
    pattern = template.split("/")
    if ANY_SEGMENTS not in pattern:
        return lambda path: _fits(pattern, path.split("/"))
    at = pattern.index(ANY_SEGMENTS)
    head, tail = pattern[:at], pattern[at + 1 :]

    def fits(path: str) -> bool:
        segments = path.split("/")
        if len(segments) < len(pattern):
            return False
        return _fits(head, segments[:at]) and _fits(tail, segments[len(segments) - len(tail) :])

    return fits


def _fits(pattern: Sequence[str], segments: Sequence[str]) -> bool:
    if len(pattern) != len(segments):
        return False
    for wanted, segment in zip(pattern, segments, strict=True):
        if wanted == ONE_SEGMENT:
            if not segment:
                return False
        elif wanted != segment:
            return False
    return True


def path_matcher(values: Sequence[str]) -> Matches:
    """Whether a path equals one of the values, by string forms and templates."""
    templates = tuple(template_matcher(value) for value in values if has_template(value))
    plain = [value for value in values if not has_template(value)]
    if not templates:
        return string_matcher(plain)
    if not plain:
        if len(templates) == 1:
            return templates[0]
        return lambda path: any(fits(path) for fits in templates)
    strings = string_matcher(plain)
    return lambda path: strings(path) or any(fits(path) for fits in templates)


_MAX_IP_CHARS = 45  # an IPv4-mapped IPv6 address written out


def parse_ip(text: str) -> tuple[int, int] | None:
    """Version and number of an IP address, IPv4-mapped IPv6 as IPv4; None when it is none."""
    return _parse_ip(text) if len(text) <= _MAX_IP_CHARS else None


@lru_cache(maxsize=65_536)
def _parse_ip(text: str) -> tuple[int, int] | None:
    if "%" in text:
        return None
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.version, int(address)


def parse_block(text: str) -> tuple[int, int, int] | None:
    """Version, network number and host bits of an address or CIDR block; host bits in it are masked away."""
    address, slash, length = text.partition("/")
    parsed = parse_ip(address)
    if parsed is None:
        return None
    version, number = parsed
    bits = 32 if version == 4 else 128
    mapped = version == 4 and ":" in address
    prefix = bits
    if slash:
        if not (length.isascii() and length.isdecimal() and len(length) <= 3) or (length[0] == "0" and length != "0"):
            return None
        prefix = int(length) - (96 if mapped else 0)
        if not 0 <= prefix <= bits:
            return None
    host_bits = bits - prefix
    return version, number >> host_bits, host_bits


def block_matcher(values: Iterable[str]) -> Matches:
    """Whether an IP address lies in one of the blocks; text that is no address lies in none.

    Values that are no blocks are left out: `compile` has refused them before.
    """
    blocks = tuple(block for block in map(parse_block, values) if block is not None)

    def inside(text: str) -> bool:
        parsed = parse_ip(text)
        if parsed is None:
            return False
        version, number = parsed
        return any(version == v and number >> host_bits == network for v, network, host_bits in blocks)

    return inside


def parse_port(text: str) -> int | None:
    """A port number 0 to 65535 written in plain digits, else None."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 5):
        return None
    port = int(text)
    return port if port <= 65_535 else None
