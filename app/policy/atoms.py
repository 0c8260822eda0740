"""Atoms: for each part of a request a finite list of values that stands for all values.

The rules cannot tell any other value from one of them. The values are *plain*: under hardened matching those with one
reading. What a policy writes out and has several readings (`a.com:80`, `/a/`) is an atom of its own, with all its
readings. Every other ambiguous spelling is no atom; it is only ever denied more than its readings are.
"""

from __future__ import annotations

import ipaddress
import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from app.errors import AppError, ErrorCode
from app.limits import PolicyLimits
from app.policy.asked_user import ANYBODYS, Believed
from app.policy.atom_patterns import (
    DESTINATION_IP,
    HOST,
    IDENTITY,
    METHOD,
    PATH,
    PORT,
    REMOTE_IP,
    SNI,
    SOURCE_IP,
    Part,
    Pattern,
    metadata_is_list,
    metadata_name,
    token_texts,
)
from app.policy.field_tests import claim_path
from app.policy.hardened import Readings, header_readings, host_readings, path_readings
from app.policy.identity_matchers import SCHEME
from app.policy.languages import ANY, PRESENT, REST, Chars, Languages, Token, Tokens, chars, string_form
from app.policy.matchers import parse_block
from app.policy.mesh import MeshConfig
from app.policy.paths import CONTROL, cut
from app.policy.request import UNAVAILABLE, Request

_ALNUM = string.ascii_letters + string.digits
_TRUST_DOMAIN = chars(string.ascii_lowercase + string.digits + "._-")
_SEGMENT = chars(_ALNUM + "._-")
_METHOD = chars(_ALNUM + "!#$%&'*+-.^_`|~")
_UPPER_METHOD = chars("".join(char for char in _ALNUM if not char.islower()) + "!#$%&'*+-.^_`|~")
_PLAIN_PATH = chars(_ALNUM + "_~!$&'()*+,=:@.-")
_PLAIN_HOST = chars(string.ascii_lowercase + string.digits + "_-")
_ANY_PATH = Chars(frozenset("?#\x7f").union(map(chr, range(32))), excluded=True)
_LOWER = Chars(frozenset(string.ascii_uppercase), excluded=True)
_NO_COMMA = Chars(frozenset(","), excluded=True)


def _some(of: Chars) -> tuple[Token, Token]:
    return Token(of, repeated=False), Token(of, repeated=True)


_MESH_IDENTITY: Tokens = (SCHEME, *_some(_TRUST_DOMAIN), "/ns/", *_some(_SEGMENT), "/sa/", *_some(_SEGMENT))
_OTHER_IDENTITY: Tokens = (SCHEME, *_some(_TRUST_DOMAIN), "/", *_some(_SEGMENT))
_PREFERRED = {
    METHOD: ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"),
    PATH: ("/",),
    PORT: (80, 8080, 443),
    SOURCE_IP: ("192.0.2.1", "2001:db8::1"),
    REMOTE_IP: ("192.0.2.1", "2001:db8::1"),
    DESTINATION_IP: ("192.0.2.1", "2001:db8::1"),
}
NO_ADDRESS = "unknown"


@dataclass(frozen=True, slots=True)
class Atom:
    """One value of a part. `readings` are, for each side, the patterns that hold in each of its readings, as bits."""

    value: Any
    readings: tuple[tuple[int, ...], ...]

    @property
    def is_plain(self) -> bool:
        """Whether it has one reading."""
        return all(len(readings) == 1 for readings in self.readings)


@dataclass(frozen=True, slots=True)
class Side:
    """What a set of policies is read in."""

    mesh: MeshConfig
    limits: PolicyLimits
    believed: Believed | None = None  # None: no token is looked at


@dataclass(frozen=True, slots=True)
class Atoms:
    """The atoms of one part, and the patterns that tell them apart."""

    part: Part
    patterns: tuple[Pattern, ...]
    atoms: tuple[Atom, ...]
    plain: int = field(init=False)  # the atoms with one reading, as bits
    _matching: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        matching = [0] * len(self.patterns)
        plain = 0
        for at, atom in enumerate(self.atoms):
            bit = 1 << at
            plain |= bit if atom.is_plain else 0
            held = atom.readings[0][0]
            while held:
                lowest = held & -held
                matching[lowest.bit_length() - 1] |= bit
                held ^= lowest
        object.__setattr__(self, "plain", plain)
        object.__setattr__(self, "_matching", tuple(matching))

    @property
    def every(self) -> int:
        """All atoms, as bits."""
        return (1 << len(self.atoms)) - 1

    def matching(self, pattern: int) -> int:
        """The atoms that a pattern matches as they are written, as bits."""
        return self._matching[pattern]

    def holding(self, tests: Iterable[tuple[int, bool]]) -> int:
        """The atoms for which tests (patterns as bits, negated) hold as they are written, as bits."""
        left = self.every
        for bits, negated in tests:
            held = 0
            while bits:
                lowest = bits & -bits
                held |= self._matching[lowest.bit_length() - 1]
                bits ^= lowest  # noqa: PLW2901 - walked bit by bit
            left &= ~held if negated else held
        return left


def atoms_of(
    part: Part,
    patterns: Sequence[Pattern],
    sides: Sequence[Side],
    given: Any = None,
    *,
    is_given: bool = False,
    possible: Iterable[Any] = (),
) -> Atoms:
    """The atoms of a part under these patterns; with a given value that value alone, else of `possible` ones if any.

    Raises:
        AppError: `TOO_LARGE` when there are more than the bounds allow; `INVALID` for a given value that is refused
            before any policy is asked.
    """
    if is_given:
        atom = _atom(part, given, patterns, sides)
        if atom is None:
            raise AppError(ErrorCode.INVALID, f"{part.label} {given!r} is denied before any policy is asked")
        return Atoms(part, tuple(patterns), (atom,))
    limits = sides[0].limits
    found: dict[tuple[tuple[int, ...], ...], Atom] = {}
    for value in possible or _candidates(part, patterns, sides, limits):
        atom = _atom(part, value, patterns, sides)
        if atom is not None:
            found.setdefault(atom.readings, atom)
        if len(found) > limits.max_atoms:
            raise AppError(
                ErrorCode.TOO_LARGE,
                f"the rules tell more than {limits.max_atoms} values of {part.label} apart (policy.max_atoms); "
                "narrow the question, such as by --to, --method or --path",
            )
    return Atoms(part, tuple(patterns), tuple(found.values()))


def _atom(part: Part, value: Any, patterns: Sequence[Pattern], sides: Sequence[Side]) -> Atom | None:
    readings = []
    for side in sides:
        spelled = readings_of(part, value, side)
        if spelled is None:
            return None
        readings.append(tuple(_bits(patterns, spellings) for spellings in spelled))
    return Atom(value, tuple(readings))


def _bits(patterns: Sequence[Pattern], spellings: Sequence[Any]) -> int:
    bits = 0
    for spelling in spellings:
        for at, pattern in enumerate(patterns):
            if pattern.matches(spelling):
                bits |= 1 << at
    return bits


def readings_of(part: Part, value: Any, side: Side) -> tuple[tuple[Any, ...], ...] | None:
    """What the patterns of a part are compared with, None for a value that is refused before any policy."""
    hardened, most = side.mesh.hardened, side.limits.max_readings
    if part.kind == "header":
        values = () if value is None else (value,)
        return header_readings(part.name, values, (), most) if hardened else (values,)
    if part == PATH:
        return _path_readings(value, most, hardened=hardened)
    if part == HOST:
        return host_readings(value) if hardened else ((value.lower(),),)
    if part == METHOD:  # anything else is denied as malformed
        known = _UPPER_METHOD if hardened else _METHOD
        return ((value,),) if value and all(char in known for char in value) else None
    if part == IDENTITY:
        return ((value,),)
    fields: dict[str, Any] = {}
    put(fields, part, value)
    return ((Request(**fields),),)


def _path_readings(path: str, most: int, *, hardened: bool) -> Readings | None:
    if not path.startswith("/") or CONTROL.search(path) or (hardened and "%00" in path):
        return None
    # Half of the bound, because path and host are read together and a host has two readings at most.
    return path_readings(path, most // 2) if hardened else ((cut(path),),)


def put(fields: dict[str, Any], part: Part, value: Any) -> None:
    """Write a value of a part into the members of a `Request`."""
    match part.kind:
        case "identity":
            fields["principal"] = value
        case "method" | "path" | "host" | "port" | "sni":
            fields[part.kind] = value
        case "source.ip" | "remote.ip" | "destination.ip":
            fields[part.kind.replace(".", "_")] = value
        case "header":
            if value is not None:
                fields.setdefault("headers", {})[part.name] = (value,)
        case "token":
            if value is not None:
                names = zip(("iss", "sub"), value, strict=True)
                _claims(fields).update({name: text for name, text in names if text is not None})
        case "claim":
            _put_claim(fields, part, value)
        case _:
            if value is not None:
                filter_name, name = metadata_name(part)
                fields.setdefault("dynamic_metadata", {}).setdefault(filter_name, {})[name] = value


def _claims(fields: dict[str, Any]) -> dict[str, Any]:
    if fields.get("claims") is None:
        fields["claims"] = {}
    claims: dict[str, Any] = fields["claims"]
    return claims


def _put_claim(fields: dict[str, Any], part: Part, value: list[str]) -> None:
    if not value:
        return
    path = claim_path(part.name) or ("",)
    at = _claims(fields)
    for name in path[:-1]:
        at = at.setdefault(name, {})
    at[path[-1]] = value


def _candidates(part: Part, patterns: Sequence[Pattern], sides: Sequence[Side], limits: PolicyLimits) -> Iterator[Any]:
    yield from _PREFERRED.get(part, ())
    match part.kind:
        case "port":
            yield from sorted({int(pattern.written) for pattern in patterns})
            yield next(port for port in range(1024, 65_536) if str(port) not in {p.written for p in patterns})
        case "source.ip" | "remote.ip" | "destination.ip":
            yield from _addresses(patterns)
        case "token":
            yield from _tokens(patterns, sides, limits)
        case "claim":
            yield from _lists(patterns, limits)
        case "metadata":
            yield None
            scalars = [pattern for pattern in patterns if not metadata_is_list(pattern)]
            yield from _texts([(REST,)], [[string_form(pattern.written)] for pattern in scalars], limits)
            yield from _lists(
                [pattern for pattern in patterns if metadata_is_list(pattern)], limits, lambda text: text.strip("[]")
            )
        case _:
            yield from _text_candidates(part, patterns, sides, limits)


def _text_candidates(
    part: Part, patterns: Sequence[Pattern], sides: Sequence[Side], limits: PolicyLimits
) -> Iterator[str | None]:
    hardened = any(side.mesh.hardened for side in sides)
    if part in (IDENTITY, HOST, SNI):
        yield ""
    if part == IDENTITY:
        yield UNAVAILABLE
    if part.kind == "header":
        yield None
    languages = _domain(part, hardened=hardened)
    for number, pattern in enumerate(patterns):
        languages.add(number, pattern.texts)
    if part == IDENTITY:  # what ztunnel compares depends on this form
        languages.add(len(patterns), [_MESH_IDENTITY])
    for text in languages.representatives(limits.max_atom_states).values():
        if part == IDENTITY and text.startswith("spiffe://x/"):  # any trust domain will do: then rather ours
            yield f"{SCHEME}{sides[0].mesh.trust_domain}/{text[len('spiffe://x/') :]}"
        yield text
    for pattern in patterns:
        yield from _written(part, pattern)


def _domain(part: Part, *, hardened: bool) -> Languages:
    if hardened and part == PATH:
        return Languages([("/",)], joined=("/", _PLAIN_PATH, "."))
    if hardened and part == HOST:
        return Languages([], joined=(".", _PLAIN_HOST, ""))
    domains: dict[Part, list[Tokens]] = {
        IDENTITY: [_MESH_IDENTITY, _OTHER_IDENTITY],
        METHOD: [_some(_UPPER_METHOD if hardened else _METHOD)],
        PATH: [("/", Token(_ANY_PATH, repeated=True))],
        HOST: [(Token(_LOWER, repeated=True),)],
        SNI: [PRESENT],
    }
    return Languages(domains.get(part) or [(Token(_NO_COMMA if hardened else ANY, repeated=True),)])


def _written(part: Part, pattern: Pattern) -> Iterator[str]:
    """What a policy writes out, where it may have several readings or lie outside the ordinary."""
    for tokens in pattern.texts:
        if all(isinstance(token, str) for token in tokens):
            yield "".join(map(str, tokens))
        elif len(tokens) == 2 and isinstance(tokens[0], str):
            yield tokens[0]
            if part == HOST and tokens[0].endswith(":"):
                yield tokens[0] + "80"


def _texts(domain: Iterable[Tokens], patterns: Sequence[Iterable[Tokens]], limits: PolicyLimits) -> list[str]:
    languages = Languages(domain)
    for number, texts in enumerate(patterns):
        languages.add(number, texts)
    return list(languages.representatives(limits.max_atom_states).values())


def _addresses(patterns: Sequence[Pattern]) -> Iterator[str]:
    """The first address of every stretch between the edges of the blocks, and something that is no address."""
    edges: dict[int, set[int]] = {4: {0}, 6: {0}}
    for pattern in patterns:
        version, network, host_bits = parse_block(pattern.written) or (4, 0, 32)
        edges[version].update((network << host_bits, (network + 1) << host_bits))
    for version, numbers in edges.items():
        bits = 32 if version == 4 else 128
        make: Callable[[int], Any] = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
        yield from (str(make(number)) for number in sorted(numbers) if number < 1 << bits)
    yield NO_ADDRESS


def _tokens(
    patterns: Sequence[Pattern], sides: Sequence[Side], limits: PolicyLimits
) -> Iterator[tuple[str | None, str | None] | None]:
    """No token, and each issuer that is believed, or every kind of issuer, with every kind of subject, or none."""
    yield None
    nothing: list[str | None] = [None]
    of_issuers, of_subjects = token_texts(patterns)
    subjects = nothing + _texts([(REST,)], [[one] for one in of_subjects], limits)
    issuers = nothing + list(dict.fromkeys(issuer for side in sides for issuer in side.believed or ()))
    if any(side.believed == ANYBODYS for side in sides):
        issuers += _texts([(REST,)], [[one] for one in of_issuers], limits)
    elif len(issuers) > 1:
        issuers.remove(None)  # a token that is believed says whose it is
        if any(side.believed is None for side in sides):  # where one side ignores what the other refuses
            issuers.append(next(text for text in map("issuer-{}".format, count()) if text not in issuers))
    for issuer in issuers:
        for subject in subjects:
            yield issuer, subject


def _lists(patterns: Sequence[Pattern], limits: PolicyLimits, inner: Callable[[str], str] = str) -> Iterator[list[str]]:
    """Lists of texts, the empty one first, one for each set of patterns that their items match together."""
    languages = Languages([(REST,)])
    for number, pattern in enumerate(patterns):
        languages.add(number, [string_form(inner(pattern.written))])
    items = languages.representatives(limits.max_atom_states)
    reached: dict[frozenset[int], list[str]] = {frozenset(): []}
    waiting = [frozenset[int]()]
    for held in waiting:  # grows while it is walked
        yield reached[held]
        for more, text in items.items():
            together = held | more
            if together not in reached:
                reached[together] = [*reached[held], text]
                waiting.append(together)
                if len(waiting) > limits.max_atoms:
                    raise AppError(
                        ErrorCode.TOO_LARGE,
                        f"the rules tell more than {limits.max_atoms} lists of a claim apart (policy.max_atoms)",
                    )
