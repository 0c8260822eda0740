"""The single values of rules as patterns: which part of a request each looks at, and which texts it stands for.

What a pattern matches is asked of the very functions that evaluate rules; the texts only say where to look, so that
every combination of patterns is seen at least once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from app.policy.authorization_policy import FieldTest
from app.policy.claims import metadata_key
from app.policy.field_tests import Dimension, PolicyContext, Test, canonical_name, claim_path, field_tests
from app.policy.identity_matchers import SCHEME, expand_principals, expand_trust_domains
from app.policy.languages import NO_SLASH, PRESENT, REST, SEGMENT, Token, Tokens, string_form
from app.policy.matchers import ANY_SEGMENTS, ONE_SEGMENT, has_template
from app.policy.request import Request, Unavailable


class Part(NamedTuple):
    """A part of a request that rules look at: `identity`, `path`, `header` with its name, and so on."""

    kind: str
    name: str = ""

    @property
    def label(self) -> str:
        """What it is called in answers: the word of a condition."""
        return f"request.headers[{self.name}]" if self.kind == "header" else self.name or _LABELS.get(self.kind, "")


IDENTITY, METHOD, PATH, HOST = Part("identity"), Part("method"), Part("path"), Part("host")
PORT, SNI, TOKEN = Part("port"), Part("sni"), Part("token")
SOURCE_IP, REMOTE_IP, DESTINATION_IP = Part("source.ip"), Part("remote.ip"), Part("destination.ip")

_LABELS = {
    "identity": "caller",
    "method": "method",
    "path": "path",
    "host": "host",
    "port": "port",
    "sni": "connection.sni",
    "token": "request.auth.principal",
    "source.ip": "source.ip",
    "remote.ip": "remote.ip",
    "destination.ip": "destination.ip",
}
_PSEUDO_HEADERS = {":method": METHOD, ":path": PATH, ":authority": HOST}
_BY_DIMENSION = {
    Dimension.IDENTITY: IDENTITY,
    Dimension.METHOD: METHOD,
    Dimension.PATH: PATH,
    Dimension.HOST: HOST,
}
_BY_FIELD = {
    "ipBlocks": SOURCE_IP,
    "remoteIpBlocks": REMOTE_IP,
    "destination.ip": DESTINATION_IP,
    "ports": PORT,
    "connection.sni": SNI,
    "requestPrincipals": TOKEN,
}
_WORDS = {"namespaces": "namespace ", "serviceAccounts": "service account ", "trustDomains": "trust domain "}


@dataclass(frozen=True, slots=True)
class Pattern:
    """One value of a rule. `texts` are the texts of its part that it may match, for parts that are text."""

    label: str
    matches: Callable[[Any], bool]
    texts: tuple[Tokens, ...] = ()
    written: str = ""  # the value itself, for parts that are not text


NOT_AVAILABLE = Pattern("identity unavailable", lambda principal: isinstance(principal, Unavailable))


def part_of(test: Test) -> Part:
    """The part of a request that a test looks at."""
    if test.dimension is Dimension.HEADER:
        return _PSEUDO_HEADERS.get(test.name) or Part("header", test.name)
    if test.dimension is not Dimension.REQUEST:
        return _BY_DIMENSION[test.dimension]
    kind = canonical_name(test.name)
    if kind in _BY_FIELD:
        return _BY_FIELD[kind]
    claim = claim_path(kind)
    if claim in (("iss",), ("sub",)):
        return TOKEN
    return Part("metadata" if claim is None else "claim", kind)


def patterns_of(test: Test, context: PolicyContext, *, at_ztunnel: bool) -> Iterator[tuple[tuple[str, ...], Pattern]]:
    """Each value of a test as a pattern, with a key that is the same for equal patterns of one mesh."""
    name = f"request.headers[{test.name}]" if test.dimension is Dimension.HEADER else test.name
    kind = canonical_name(name)
    for value in test.values:
        field = FieldTest(name, "", "", (value,), ())
        (alone,) = field_tests(field, context, at_ztunnel=at_ztunnel)
        default = context.namespace if kind == "serviceAccounts" and "/" not in value else ""
        shown = f"{default}/{value}" if default else value
        pattern = Pattern(
            label=f"{_WORDS.get(kind, '')}{shown}",
            matches=alone.matches,
            texts=tuple(_texts(kind, value, context)),
            written=value,
        )
        yield (kind, value, default, "ztunnel" if at_ztunnel else ""), pattern


def _texts(kind: str, value: str, context: PolicyContext) -> Iterable[Tokens]:
    if kind in _IDENTITY_TEXTS:
        return _IDENTITY_TEXTS[kind](value, context)
    match kind:
        case "hosts":
            return [string_form(value.lower())]
        case "paths" if has_template(value):
            return [_template(value)]
        case _ if kind.startswith("request.headers"):
            return [string_form(value, present=(REST,))]
        case _:
            return [string_form(value)]


def _principal_texts(value: str, context: PolicyContext) -> Iterator[Tokens]:
    for expanded in expand_principals((value,), context.mesh):
        if expanded == "*":
            yield PRESENT
        elif expanded.startswith("*"):
            yield (SCHEME, REST, expanded[1:])
        else:
            yield string_form(SCHEME + expanded)


def _namespace_texts(value: str, _: PolicyContext) -> Iterator[Tokens]:
    yield (REST, *_glob(f"/ns/{value}/"), REST)


def _glob(text: str) -> Iterator[Token | str]:
    for number, piece in enumerate(text.split("*")):
        if number:
            yield REST
        yield piece


def _account_texts(value: str, context: PolicyContext) -> Iterator[Tokens]:
    namespace, slash, account = value.partition("/")
    if not slash:
        namespace, account = context.namespace, value
    for between in ((), (*PRESENT, "/")):
        for after in ((), ("/", *PRESENT)):
            yield (SCHEME, *PRESENT, f"/ns/{namespace}/", *between, f"sa/{account}", *after)


def _trust_domain_texts(value: str, context: PolicyContext) -> Iterator[Tokens]:
    if value == "*":
        yield (SCHEME, REST)
        return
    for expanded in expand_trust_domains((value,), context.mesh):
        form = string_form(expanded, rest=Token(NO_SLASH, repeated=True))
        yield (SCHEME, *form, "/", REST)


_IDENTITY_TEXTS: Mapping[str, Callable[[str, PolicyContext], Iterator[Tokens]]] = {
    "principals": _principal_texts,
    "namespaces": _namespace_texts,
    "serviceAccounts": _account_texts,
    "trustDomains": _trust_domain_texts,
}


def _template(value: str) -> Tokens:
    tokens: list[Token | str] = []
    for segment in value.split("/")[1:]:
        tokens.append("/")
        if segment == ONE_SEGMENT:
            tokens.extend(SEGMENT)
        else:
            tokens.append(REST if segment == ANY_SEGMENTS else segment)
    return tuple(tokens)


def present(part: Part) -> Iterator[tuple[tuple[str, ...], Pattern]]:
    """The pattern that tells having a value from having none, for parts where people ask about that."""
    if part == IDENTITY:
        yield ("present",), Pattern("any authenticated caller", bool, (PRESENT,))
    elif part in (HOST, SNI):
        yield ("present",), Pattern("any", _has_sni if part == SNI else bool, (PRESENT,))
    elif part == TOKEN:
        yield ("present",), Pattern("any token", _has_token, written="*")
    elif part.kind == "header":
        yield ("present",), Pattern("any value", lambda _: True, ((REST,),))


def _has_sni(request: Request) -> bool:
    return bool(request.sni)


def _has_token(request: Request) -> bool:
    return request.claims is not None


def token_texts(patterns: Sequence[Pattern]) -> tuple[list[Tokens], list[Tokens]]:
    """What patterns on issuer and subject stand for, as texts of the issuer and of the subject."""
    issuers: list[Tokens] = [PRESENT]
    subjects: list[Tokens] = [PRESENT]
    for pattern in patterns:
        value = pattern.written
        issuer, slash, subject = value.rpartition("/")
        # As a claim of its own a value is a string form; as a request principal it is split at its last slash.
        issuers.extend((string_form(value), string_form(issuer or "*"), (issuer,)))
        subjects.extend((string_form(value), string_form(subject if slash else value), (subject,)))
    return issuers, subjects


def metadata_is_list(pattern: Pattern) -> bool:
    """Whether a value of dynamic metadata asks for an item of a list."""
    return pattern.written.startswith("[") and pattern.written.endswith("]")


def metadata_name(part: Part) -> tuple[str, str]:
    """Filter and name that a part of the dynamic metadata is found under."""
    return metadata_key(part.name) or ("", "")
