"""The rules that decide at a target, each value of them as a pattern: policies, quarantines and grants.

What a proxy demands of every request before any policy is among them, as a rule that matches what does not have it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Any, NamedTuple

from app.policy.atom_patterns import IDENTITY, NOT_AVAILABLE, TOKEN, Part, Pattern, part_of, patterns_of
from app.policy.authorization_policy import Action
from app.policy.decision import Reason
from app.policy.demands import NO_DEMANDS, Demands
from app.policy.field_tests import Dimension, PolicyContext
from app.policy.field_tests import Test as FieldTests
from app.policy.grant import GrantState
from app.policy.languages import NO_SLASH, Token
from app.policy.policy_view import PolicyView
from app.policy.quarantine import Quarantine, QuarantineIndex
from app.policy.request import Request
from app.policy.rules import CompiledRule, Place
from app.policy.target import Target

_QUARANTINE = "Quarantine"
_NO_CLAIMS = Request()


class Role(Enum):
    """What a rule that matches does."""

    BAR = "bar"
    DENY = "deny"
    CUSTOM = "custom"
    ALLOW = "allow"
    LIFT = "lift"


class ValueTests(NamedTuple):
    """One test on a part: the patterns of its values, each with a key that is the same for equal patterns."""

    keyed: tuple[tuple[Any, Pattern], ...]
    negated: bool


ValueClause = Mapping[Part, tuple[ValueTests, ...]]


@dataclass(frozen=True, slots=True)
class EnforcedRule:
    """One enforced rule, with its tests by part in groups of clauses."""

    role: Role
    name: str  # <namespace>/<name> of the policy
    id: str  # Istio's
    provider: str
    groups: tuple[tuple[ValueClause, ...], ...]
    reason: Reason = Reason.QUARANTINED  # of a denial that is none of the policies'

    def tests(self, part: Part) -> Iterator[ValueTests]:
        """All tests on a part."""
        for group in self.groups:
            for clause in group:
                yield from clause.get(part, ())


def asks_for_tokens(rule: EnforcedRule) -> bool:
    """Whether a rule asks for the claims of an end user."""
    return any(_is_of_token(part) for group in rule.groups for clause in group for part in clause)


def without_tokens(rule: EnforcedRule) -> EnforcedRule:
    """The rule where no token is looked at: each test on claims comes out as for a request without any."""
    groups = tuple(tuple(filter(_is_alive, group)) for group in rule.groups)
    kept = tuple(
        tuple({part: tests for part, tests in clause.items() if not _is_of_token(part)} for clause in group)
        for group in groups
    )
    return replace(rule, groups=kept)


def _is_alive(clause: ValueClause) -> bool:
    tests = (test for part, tests in clause.items() if _is_of_token(part) for test in tests)
    return all(any(pattern.matches(_NO_CLAIMS) for _, pattern in test.keyed) is not test.negated for test in tests)


def _is_of_token(part: Part) -> bool:
    return part.kind in ("token", "claim")


def enforced_rules(
    view: PolicyView,
    target: Target,
    protocol: str,
    now: datetime | None,
    demands: Demands = NO_DEMANDS,
    believed: frozenset[str] = frozenset(),
) -> Iterator[EnforcedRule]:
    """What decides at the target, in the order in which rules are named.

    With `believed` issuers, tokens of any other one are refused; without, nothing is said of tokens.
    """
    if now is not None:
        yield from _quarantines(view, now)
    yield from _demanded(demands, target)
    if believed:
        yield _refused_tokens(believed)
    place = view.table.attached(target).place(protocol)
    chain = view.chain(target, protocol)
    for policy in chain.policies:
        for rule in policy.rules(place):
            groups = tuple(_groups(rule, policy.context, place))
            role = _ROLES[policy.action]
            yield EnforcedRule(role, policy.name, rule.id, chain.providers.get(policy.name, ""), groups)
    if now is not None:
        yield from _grants(view, target, protocol, now, allows=chain.allows)


def _grants(view: PolicyView, target: Target, protocol: str, now: datetime, *, allows: bool) -> Iterator[EnforcedRule]:
    """Grants that hold: ALLOW rules that are asked last; those that override denials lift every other one."""
    attached = view.grants.table.attached(target)
    place = attached.place(protocol)
    for policy in attached.chain(protocol).policies:
        grant = view.grants.get(policy.name)
        if grant.state(now) is GrantState.HOLDS and (allows or grant.overrides_deny):
            role = Role.LIFT if grant.overrides_deny else Role.ALLOW
            for rule in policy.rules(place):
                groups = tuple(_groups(rule, policy.context, place))
                yield EnforcedRule(role, grant.decision.policy, grant.decision.rule, "", groups)


def _groups(rule: CompiledRule, context: PolicyContext, place: Place) -> Iterator[tuple[ValueClause, ...]]:
    def clause(tests: Iterable[FieldTests]) -> ValueClause:
        by_part: dict[Part, list[ValueTests]] = {}
        for test in tests:
            part = part_of(test)
            # What a value means may depend on the mesh, where two views are compared.
            mesh = context.mesh if part == IDENTITY else None
            keyed = patterns_of(test, context, at_ztunnel=place is Place.ZTUNNEL)
            by_part.setdefault(part, []).append(
                ValueTests(tuple(((*key, mesh), pattern) for key, pattern in keyed), test.negated)
            )
        return {part: tuple(tests) for part, tests in by_part.items()}

    for clauses in (rule.source_clauses, rule.operation_clauses):
        if clauses:
            yield tuple(map(clause, clauses))
    for test in rule.conditions:
        if test.dimension is not Dimension.HEADER:
            yield (clause([test]),)
    for header in rule.headers:  # all tests of one header hold in one reading of it
        yield (clause(header.tests),)


def _demanded(demands: Demands, target: Target) -> Iterator[EnforcedRule]:
    """What the proxy denies before any policy; in the order of a worker, after quarantines."""
    if demands.identity:
        tests = ValueTests(((("unavailable",), NOT_AVAILABLE),), negated=False)
        yield EnforcedRule(Role.BAR, "", "", "", (({IDENTITY: (tests,)},),), Reason.IDENTITY_UNAVAILABLE)
    if demands.lacks_service(target):
        yield EnforcedRule(Role.BAR, "", "", "", (), Reason.TARGET_UNKNOWN)


def _refused_tokens(believed: frozenset[str]) -> EnforcedRule:
    def refused(request: Request) -> bool:
        return request.claims is not None and request.claims.get("iss") not in believed

    label = f"a token of no issuer that is believed ({', '.join(sorted(believed))})"
    tests = ValueTests(((("believed", believed), Pattern(label, refused)),), negated=False)
    return EnforcedRule(Role.BAR, "", "", "", (({TOKEN: (tests,)},),), Reason.TOKEN_INVALID)


def _quarantines(view: PolicyView, now: datetime) -> Iterator[EnforcedRule]:
    for quarantine in view.quarantines.all():
        if quarantine.holds(now) and (quarantine.identity or quarantine.account):
            key = (_QUARANTINE, quarantine.name, quarantine.identity, quarantine.account)
            tests = ValueTests(((key, _quarantined(quarantine, now)),), negated=False)
            decision = quarantine.decision
            yield EnforcedRule(Role.BAR, decision.policy, decision.rule, "", (({IDENTITY: (tests,)},),))


def _quarantined(quarantine: Quarantine, now: datetime) -> Pattern:
    alone = QuarantineIndex((quarantine,))
    text = (
        (quarantine.identity,)
        if quarantine.identity
        else ("spiffe://", Token(NO_SLASH, repeated=False), Token(NO_SLASH, repeated=True), quarantine.account)
    )
    return Pattern(
        label=f"quarantine {quarantine.name}",
        matches=lambda principal: alone.of_identity(principal, now) is not None,
        texts=(text,),
    )


_ROLES = {Action.DENY: Role.DENY, Action.CUSTOM: Role.CUSTOM, Action.ALLOW: Role.ALLOW}
