"""The space of all requests of one protocol at one target, under one set of policies or under two at once.

It brings together the rules that concern the target, the atoms of every part that they ask about, and the way back from
a class to words and to a request that is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.errors import AppError, ErrorCode
from app.policy.asked_user import ANYBODYS, NONE_AT_ALL, NOT_ATTACHED, Believed, believed_issuers
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
    TOKEN,
    Part,
    Pattern,
    metadata_name,
    present,
)
from app.policy.atoms import Atoms, Side, atoms_of, put
from app.policy.demands import NO_DEMANDS, Demands
from app.policy.describe_atoms import AtomSet, AtomWords
from app.policy.divide import Divider, Leaf, RequestClass
from app.policy.enforced_rules import (
    EnforcedRule,
    Role,
    ValueTests,
    asks_for_tokens,
    enforced_rules,
    without_tokens,
)
from app.policy.evaluate import is_conflict
from app.policy.field_tests import claim_path
from app.policy.policy_view import PolicyView
from app.policy.request import Request
from app.policy.residual import Clause, Rule, Test, holds, rule_of
from app.policy.target import Target
from app.policy.walk_state import State

# Who calls comes first: it leaves the fewest rules.
_ORDER = (IDENTITY, PATH, METHOD, HOST, PORT, SOURCE_IP, REMOTE_IP, DESTINATION_IP, TOKEN, SNI)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A rule with its patterns as bits."""

    rule: EnforcedRule
    groups: tuple[tuple[Mapping[Part, tuple[Test, ...]], ...], ...]


class _Patterns:
    """Patterns by part, each once."""

    def __init__(self) -> None:
        self.by_part: dict[Part, dict[Any, int]] = {}
        self.found: dict[Part, list[Pattern]] = {}

    def bits(self, part: Part, keyed: Iterable[tuple[Any, Pattern]]) -> int:
        """The bits of patterns of a part, which are added where they are new."""
        numbers, patterns = self.by_part.setdefault(part, {}), self.found.setdefault(part, [])
        bits = 0
        for key, pattern in keyed:
            if key not in numbers:
                numbers[key] = len(patterns)
                patterns.append(pattern)
            bits |= 1 << numbers[key]
        return bits

    def tests(self, part: Part, tests: Iterable[ValueTests]) -> tuple[Test, ...]:
        """Tests with their patterns as bits."""
        return tuple(sorted((self.bits(part, one.keyed), one.negated) for one in tests))


def whose_tokens(views: Sequence[PolicyView], target: Target, protocol: str) -> list[Believed | None]:
    """Whose tokens each view believes at a target. Documents without any RequestAuthentication do not say."""
    if protocol != "tcp" and all(view.authentications is None for view in views):
        return [ANYBODYS] * len(views)
    return [believed_issuers(view.authentications, target, protocol) for view in views]


class RequestSpace:
    """All requests of a protocol (`http` or `tcp`) at a target, as the rules of one or two views divide them."""

    def __init__(
        self,
        views: Sequence[PolicyView],
        target: Target,
        protocol: str,
        *,
        given: Mapping[Part, Any] | None = None,
        now: datetime | None = None,
        demands: Sequence[Demands] = (),
    ) -> None:
        """`given` values of parts stand for themselves alone; with `now`, quarantines and grants that hold then count.

        `demands` are those of the proxy in each view; without any, nothing is demanded.

        Raises:
            AppError: `TOO_LARGE` over a limit, `INVALID` for what cannot be divided.
        """
        self.target = target
        self.protocol = protocol
        self._given = dict(given or {})
        self._views = tuple(views)
        self._limits = views[0].table.limits
        sides = self._sides = [
            Side(view.mesh, view.table.limits, believed)
            for view, believed in zip(views, whose_tokens(views, target, protocol), strict=True)
        ]
        rules = [
            list(enforced_rules(view, target, protocol, now, demanded, self._told_apart(side)))
            for view, side, demanded in zip(views, sides, demands or [NO_DEMANDS] * len(views), strict=True)
        ]
        self._asks_for_tokens = any(asks_for_tokens(rule) for side in rules for rule in side)
        rules = [
            list(map(without_tokens, found)) if side.believed is None else found
            for found, side in zip(rules, sides, strict=True)
        ]
        patterns = _Patterns()
        known = {part: self._given_atoms(part, rules, patterns, sides) for part in self._given}
        self._entries = [
            [_entry(rule, patterns) for rule in side if _may_match(rule, known, patterns)] for side in rules
        ]
        for part in (*self._given, *patterns.found):
            patterns.bits(part, present(part))
        _refuse_twins(patterns.found, hardened=any(view.mesh.hardened for view in views))
        self.parts = [
            atoms_of(
                part,
                patterns.found[part],
                sides,
                self._given.get(part),
                is_given=part in self._given,
                possible=self._ports() if part == PORT else (),
            )
            for part in sorted(patterns.found, key=self._rank)
        ]
        self._words: dict[int, AtomWords] = {}
        self._numbers = {atoms.part: number for number, atoms in enumerate(self.parts)}

    def _ports(self) -> Sequence[int]:
        """The ports at which the target is reached; none where they are not known, so that it may be any."""
        ports = [{port for view in self._views for port in view.services.ports(one)} for one in self.target.services]
        return sorted(set().union(*ports)) if all(ports) else ()

    def _told_apart(self, side: Side) -> frozenset[str]:
        """The issuers that a side believes, where the other one believes others or looks at no token.

        What both refuse is in no class.
        """
        differs = any(one.believed != side.believed for one in self._sides)
        return frozenset(side.believed or ()) if differs else frozenset()

    def _given_atoms(
        self, part: Part, rules: Sequence[Sequence[EnforcedRule]], patterns: _Patterns, sides: Sequence[Side]
    ) -> Atoms:
        patterns.bits(part, present(part))
        for side in rules:
            for rule in side:
                for tests in rule.tests(part):
                    patterns.bits(part, tests.keyed)
        return atoms_of(part, patterns.found[part], sides, self._given[part], is_given=True)

    def _rank(self, part: Part) -> tuple[bool, int, Part]:
        return part not in self._given, _ORDER.index(part) if part in _ORDER else len(_ORDER), part

    def classes(self, wanted: Callable[[Leaf], bool], *, ranked: bool) -> list[RequestClass]:
        """The classes with a wanted outcome; `ranked` tells the rules apart that decide alike.

        Raises:
            AppError: `TOO_LARGE` over a limit.
        """
        same = len({(view.mesh, view.table.limits) for view in self._views}) == 1 and not ranked
        divider = Divider(self.parts, self._limits, same_rules=same)
        states = [self._state(side, ranked=ranked) for side in range(len(self._views))]
        return [one for one in divider.classes(states, wanted) if self._claims_are_possible(one)]

    def _claims_are_possible(self, one: RequestClass) -> bool:
        """Whether there is a token where the class has claims; parts are divided as if nothing joined them."""
        token = self._numbers.get(TOKEN)
        if token is None or token not in one.atoms:
            return True
        if any(self.parts[token].atoms[at].value is not None for at in _members(one.atoms[token])):
            return True
        return all(_has_no_claim(self.parts[number], block) for number, block in one.atoms.items())

    def believed(self, side: int) -> Believed | None:
        """Whose tokens are believed on a side; None where no token is looked at."""
        return self._sides[side].believed

    @property
    def note_on_claims(self) -> str:
        """What to know where rules ask for an end user's token, and nobody says whose are believed; empty elsewhere."""
        if not self._asks_for_tokens or any(side.believed for side in self._sides):
            return ""
        return NONE_AT_ALL if any(side.believed == ANYBODYS for side in self._sides) else NOT_ATTACHED

    def rule(self, side: int, rank: int) -> tuple[str, str]:
        """Policy and rule of a rank; empty for none."""
        if rank < 0:
            return "", ""
        rule = self._entries[side][rank].rule
        return rule.name, rule.id

    def describe(self, one: RequestClass) -> dict[str, AtomSet]:
        """The conditions of a class, in words by part; parts that do not matter, or were given, are left out."""
        words = {
            self.parts[number].part.label: self._words_of(number).describe(atoms)
            for number, atoms in sorted(one.atoms.items())
            if self.parts[number].part not in self._given
        }
        return {label: found for label, found in words.items() if found.of or found.but}

    def _words_of(self, number: int) -> AtomWords:
        if number not in self._words:
            self._words[number] = AtomWords(self.parts[number])
        return self._words[number]

    def witness(self, one: RequestClass) -> Request:
        """A request of the class."""
        fields: dict[str, Any] = {"protocol": self.protocol}
        if self.protocol != "tcp":
            fields |= {"method": "GET", "path": "/"}
        said = {*self._given, *([PORT] if self._ports() else ())}  # what any request has, also where it does not matter
        values = {
            atoms.part: atoms.atoms[_first(atoms, one.atoms.get(number))].value
            for number, atoms in enumerate(self.parts)
            if number in one.atoms or atoms.part in said
        }
        if any(value for part, value in values.items() if part.kind == "claim"):
            values[TOKEN] = self._token(one)
        for part, value in values.items():
            put(fields, part, value)
        self._add_audience(fields.get("claims"), values)
        return Request(**fields)

    def _token(self, one: RequestClass) -> tuple[str | None, str | None]:
        """Issuer and subject of a token of a class that has claims."""
        number = self._numbers.get(TOKEN)
        if number is None:
            return next((issuer for side in self._sides for issuer in side.believed or ()), None), None
        atoms = self.parts[number]
        block = one.atoms.get(number, atoms.every)
        found: Iterator[tuple[str | None, str | None] | None] = (atoms.atoms[at].value for at in _members(block))
        return next(filter(None, found))

    def _add_audience(self, claims: Any, values: Mapping[Part, Any]) -> None:
        """An audience that the issuer's token must have, where the class says nothing about audiences."""
        if claims and not any(claim_path(part.name) == ("aud",) for part in values if part.kind == "claim"):
            wanted = [audience for side in self._sides for audience in (side.believed or {}).get(claims.get("iss"), ())]
            claims.update({"aud": wanted[:1]} if wanted else {})

    def contains(self, one: RequestClass, request: Request) -> bool:
        """Whether a request is in a class; it must be one with plain readings, or with atoms of its own."""
        return all(self._has(number, block, request) for number, block in one.atoms.items())

    def _has(self, number: int, block: int, request: Request) -> bool:
        atoms = self.parts[number]
        value = _value(atoms.part, request)
        (found,) = atoms_of(atoms.part, atoms.patterns, self._sides, value, is_given=True).atoms
        return any(block >> at & 1 and atom.readings == found.readings for at, atom in enumerate(atoms.atoms))

    def _state(self, side: int, *, ranked: bool) -> State:
        view = self._views[side]
        chain = view.chain(self.target, self.protocol)
        found: dict[Role, set[Any]] = {role: set() for role in Role}
        for number, entry in enumerate(self._entries[side]):
            rank = number if ranked else 0
            rule = self._rule(entry)
            if rule is not None:
                found[entry.rule.role].add(_ranked(entry.rule, rank, rule))
        return State(
            deny=frozenset(found[Role.DENY]),
            custom=frozenset(found[Role.CUSTOM]),
            allow=frozenset(found[Role.ALLOW]),
            bar=frozenset(found[Role.BAR]),
            lift=frozenset(found[Role.LIFT]),
            allows=chain.allows,
            conflict=is_conflict(view.table, chain),
        )

    def _rule(self, entry: _Entry) -> Rule | None:
        return rule_of([self._clause(clause) for clause in group] for group in entry.groups)

    def _clause(self, clause: Mapping[Part, tuple[Test, ...]]) -> Clause:
        return tuple(sorted((self._numbers[part], tests) for part, tests in clause.items()))


def _ranked(rule: EnforcedRule, rank: int, asks: Rule) -> Any:
    match rule.role:
        case Role.CUSTOM:
            return rule.provider, rank, asks
        case Role.BAR:
            return rank, rule.reason, asks
        case _:
            return rank, asks


def _members(block: int) -> Iterator[int]:
    """The numbers of the atoms in a block."""
    return (at for at in range(block.bit_length()) if block >> at & 1)


def _has_no_claim(atoms: Atoms, block: int) -> bool:
    """Whether a request without a token is among these."""
    return atoms.part.kind != "claim" or any(not atoms.atoms[at].value for at in _members(block))


def _first(atoms: Atoms, block: int | None) -> int:
    """The number of the first atom of a block, a plain one where there is one."""
    members = [at for at in range(len(atoms.atoms)) if block is None or block >> at & 1]
    return next((at for at in members if atoms.atoms[at].is_plain), members[0])


def _entry(rule: EnforcedRule, patterns: _Patterns) -> _Entry:
    return _Entry(
        rule,
        tuple(
            tuple({part: patterns.tests(part, tests) for part, tests in clause.items()} for clause in group)
            for group in rule.groups
        ),
    )


def _may_match(rule: EnforcedRule, known: Mapping[Part, Atoms], patterns: _Patterns) -> bool:
    """Whether the given values leave the rule a chance; where they have several readings, it is not asked."""
    for group in rule.groups:
        if not any(
            all(
                holds(patterns.tests(part, tests), known[part].atoms[0].readings[0][0])
                for part, tests in clause.items()
                if part in known and known[part].atoms[0].is_plain
            )
            for clause in group
        ):
            return False
    return True


def _refuse_twins(parts: Iterable[Part], *, hardened: bool) -> None:
    """Headers that servers may take for one another are read together under hardened matching."""
    seen: dict[str, str] = {}
    for part in parts:
        if hardened and part.kind == "header":
            folded = part.name.replace("_", "-")
            if seen.setdefault(folded, part.name) != part.name:
                raise AppError(
                    ErrorCode.INVALID,
                    f"rules ask about the headers {seen[folded]} and {part.name}, which servers may take for one "
                    "another; they cannot be divided into classes: ask `policy explain` about single requests",
                )


def _value(part: Part, request: Request) -> Any:
    """What a request has for a part, as an atom's value."""
    reader = _READERS.get(part.kind)
    return getattr(request, part.kind.replace(".", "_")) if reader is None else reader(part, request)


def _token(_: Part, request: Request) -> tuple[Any, Any] | None:
    return None if request.claims is None else (request.claims.get("iss"), request.claims.get("sub"))


def _metadata(part: Part, request: Request) -> Any:
    filter_name, name = metadata_name(part)
    return ((request.dynamic_metadata or {}).get(filter_name) or {}).get(name)


def _items_of_claim(part: Part, request: Request) -> list[str]:
    found: Any = request.claims
    for name in claim_path(part.name) or ():
        found = found.get(name) if isinstance(found, dict) else None
    if isinstance(found, list):
        return [item for item in found if isinstance(item, str)]
    return [found] if isinstance(found, str) else []


_READERS: Mapping[str, Callable[[Part, Request], Any]] = {
    "identity": lambda _, request: request.principal,
    "remote.ip": lambda _, request: request.remote_ip or request.source_ip,
    "header": lambda part, request: next(iter(request.headers.get(part.name, ())), None),
    "token": _token,
    "claim": _items_of_claim,
    "metadata": _metadata,
}
