"""Where a request carries tokens of end users: the headers, query parameters and cookies that a rule names.

A token is whatever stands at such a place; whether it is one is asked afterwards. Envoy hands several lines of one
header over as one value joined by commas, which no token has in it: every part counts, because the upstream may read
any of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl

from app.policy.request import Request
from app.policy.request_authentication import JwtRule, TokenHeader

_MAX_PARTS = 64  # of one header; what has so many has more tokens than any request may have


@dataclass(slots=True)
class FoundToken:
    """A token and where it stood; exactly one of the places is set, none for a cookie. Not frozen, for the time."""

    text: str
    header: str = ""
    parameter: str = ""


class TokenPlaces:
    """The query parameters and cookies of a request by name, read when they are first asked for, once for all rules."""

    __slots__ = ("_cookies", "_parameters", "_request")

    def __init__(self, request: Request) -> None:
        self._request = request
        self._parameters: dict[str, list[str]] | None = None
        self._cookies: dict[str, list[str]] | None = None

    def parameters(self, name: str) -> Sequence[str]:
        """The values of a parameter, decoded."""
        if self._parameters is None:
            query = self._request.path.partition("#")[0].partition("?")[2]
            self._parameters = _by_name(parse_qsl(query, keep_blank_values=True))
        return self._parameters.get(name, ())

    def cookies(self, name: str) -> Sequence[str]:
        """The values of a cookie."""
        if self._cookies is None:
            lines = self._request.headers.get("cookie", ())
            self._cookies = _by_name(pair for line in lines for pair in _cookies(line))
        return self._cookies.get(name, ())


def find_tokens(rule: JwtRule, request: Request, places: TokenPlaces) -> list[FoundToken]:
    """The tokens of a request for one rule: in headers, then parameters, then cookies, each in the rule's order.

    `places` are those of the request.
    """
    found: list[FoundToken] = []
    for header in rule.from_headers:
        for value in request.headers.get(header.name, ()):
            found += [FoundToken(text, header.name) for text in _in_header(header, value)]
    if rule.from_params and "?" in request.path:
        for wanted in rule.from_params:
            found += [FoundToken(value, "", wanted) for value in places.parameters(wanted)]
    for wanted in rule.from_cookies:
        found += [FoundToken(value) for value in places.cookies(wanted)]
    return found


def _by_name(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return found


def _in_header(header: TokenHeader, value: str) -> list[str]:
    prefix = header.prefix
    if value.startswith(prefix) and "," not in value:
        return [value[len(prefix) :].strip(" \t")]
    if prefix not in value:
        return []  # another scheme, such as Basic: no token of ours
    found = []
    for part in value.split(",", _MAX_PARTS):
        before, there, after = part.partition(prefix) if prefix else ("", "", part)
        # Beside a token, what has no prefix is a token that does not verify: somebody behind us might believe it.
        found.append((after if there or not prefix else before).strip(" \t"))
    return found


def _cookies(line: str) -> Iterator[tuple[str, str]]:
    # Several lines of the header are joined by a comma or, as RFC 9113 §8.2.3 has it, by a semicolon.
    for pair in line.replace(",", ";").split(";"):
        name, equals, value = pair.strip(" \t").partition("=")
        if equals:
            yield name, value.strip('"')
