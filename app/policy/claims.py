"""How policies compare what a verified token and Envoy's dynamic metadata carry.

The claims of a request are given as already verified, or None without a token: then nothing matches, and what is
negated holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from app.policy.matchers import Matches, StringForms, string_matcher
from app.policy.request import Request

RequestTest = Callable[[Request], bool]

_SPACE_DELIMITED = frozenset({"scope", "permission"})


def in_brackets(key: str, prefix: str) -> str | None:
    """What stands in the brackets of `prefix[a]`, None when the key is not of that form or it is nothing."""
    rest = key[len(prefix) :]
    if not key.startswith(prefix) or not rest.startswith("[") or not rest.endswith("]"):
        return None
    return rest[1:-1] or None


def claim_names(key: str, prefix: str) -> list[str] | None:
    """The names in `prefix[a][b]`, None when the key is not of that form or a name is empty.

    Brackets that do not nest so are part of the name of one claim, as they are to istiod.
    """
    inner = in_brackets(key, prefix)
    if inner is None:
        return None
    names = inner.split("][")
    if any("[" in name or "]" in name for name in names):
        return [inner]
    return names if all(names) else None


def metadata_key(key: str) -> tuple[str, str] | None:
    """Filter and name in `experimental.envoy.filters.<filter>[name]`, None when it is not of that form."""
    filter_name, bracket, rest = key.removeprefix("experimental.").partition("[")
    if not bracket or not rest.endswith("]") or len(rest) < 2:
        return None
    return filter_name, rest[:-1]


def request_principal_test(values: Iterable[str]) -> RequestTest:
    """Whether issuer and subject of the token are one of the values, each split at its last slash."""
    pairs = tuple(_issuer_and_subject(value) for value in values)

    def test(request: Request) -> bool:
        claims = request.claims
        if claims is None:
            return False
        issuer, subject = claims.get("iss"), claims.get("sub")
        if not isinstance(issuer, str) or not isinstance(subject, str):
            return False
        return any(issuer_is(issuer) and subject_is(subject) for issuer_is, subject_is in pairs)

    return test


def _issuer_and_subject(value: str) -> tuple[Matches, Matches]:
    issuer, slash, subject = value.rpartition("/")
    if value == "*":
        return bool, bool
    if value.startswith("*"):
        if not slash:
            return bool, _suffix(value[1:])
        return (bool if issuer == "*" else _suffix(issuer[1:])), subject.__eq__
    if value.endswith("*"):
        if not slash:
            return _prefix(value[:-1]), bool
        return issuer.__eq__, (bool if subject == "*" else _prefix(subject[:-1]))
    return (issuer.__eq__, subject.__eq__) if slash else (value.__eq__, "".__eq__)


def _suffix(wanted: str) -> Matches:
    return lambda text: text.endswith(wanted)


def _prefix(wanted: str) -> Matches:
    return lambda text: text.startswith(wanted)


def claim_test(path: Sequence[str], values: Iterable[str]) -> RequestTest:
    """Whether a claim is a string, or a list with a string, that is one of the values."""
    matches = string_matcher(values)
    name = path[0]

    def test(request: Request) -> bool:
        found: Any = request.claims
        for key in path:
            if not isinstance(found, dict):
                return False
            found = found.get(key)
        if isinstance(found, str):
            if len(path) == 1 and (name in _SPACE_DELIMITED or name in request.space_delimited_claims):
                return any(matches(part) for part in found.split(" ") if part)
            return matches(found)
        return isinstance(found, list) and any(isinstance(item, str) and matches(item) for item in found)

    return test


def metadata_test(filter_name: str, name: str, values: Iterable[str]) -> RequestTest:
    """Whether dynamic metadata is a string that is one of the values; `[v]` wants a list with such a string."""
    values = tuple(values)
    scalars = [value for value in values if not (value.startswith("[") and value.endswith("]"))]
    lists = [value.strip("[]") for value in values if value.startswith("[") and value.endswith("]")]
    scalar_is = StringForms(scalars).matcher()
    item_is = StringForms(lists).matcher()

    def test(request: Request) -> bool:
        metadata = (request.dynamic_metadata or {}).get(filter_name)
        found = metadata.get(name) if isinstance(metadata, dict) else None
        if isinstance(found, str):
            return scalar_is(found)
        return isinstance(found, list) and any(isinstance(item, str) and item_is(item) for item in found)

    return test
