"""How far the rules of one target are decided while a request becomes known part by part.

With ranks the first rule that decides is told apart from others, as `decide` names it; without, all ranks are 0 and
only the outcome counts, so that more states are equal.
"""

from __future__ import annotations

from typing import NamedTuple

from app.policy.decision import Reason
from app.policy.residual import SATISFIED, Rule

Ranked = tuple[int, Rule]
Barring = tuple[int, Reason, Rule]
Barred = tuple[int, Reason]
Asked = tuple[str, int]  # provider, rank of its first rule
UNDECIDED = -1


class Outcome(NamedTuple):
    """A decision: what is allowed with `providers` passes only when all of them allow it."""

    allowed: bool
    reason: Reason
    rank: int = UNDECIDED  # of the rule that decides
    providers: tuple[str, ...] = ()


class State(NamedTuple):
    """Rules that may still match, by what they do, and the first of each that did."""

    deny: frozenset[Ranked] = frozenset()
    custom: frozenset[tuple[str, int, Rule]] = frozenset()
    allow: frozenset[Ranked] = frozenset()
    bar: frozenset[Barring] = frozenset()  # what is denied before any policy: nothing lifts it
    lift: frozenset[Ranked] = frozenset()  # grants that override every other denial
    denied: int = UNDECIDED
    asked: frozenset[Asked] = frozenset()
    allowed: int = UNDECIDED
    barred: Barred | None = None
    lifted: int = UNDECIDED
    allows: bool = False  # whether ALLOW policies concern the target
    conflict: bool = False  # whether its CUSTOM policies deny all that they match
    decided: Outcome | None = None  # what the policies say, while something may still bar or lift it

    @property
    def rules(self) -> set[Rule]:
        """What is still asked."""
        entries = (self.deny, self.custom, self.allow, self.bar, self.lift)
        return {entry[-1] for members in entries for entry in members}


def settled(state: State) -> State | Outcome:
    """The state without what cannot change the outcome any more; the outcome when nothing is left to ask."""
    barred, bar = _barred(state)
    if barred is not None:
        return State(bar=bar, barred=barred) if bar else Outcome(False, barred[1], barred[0])
    lifted, lift = _first(state.lifted, state.lift)
    if lifted != UNDECIDED:
        if bar or lift:
            return State(bar=bar, lift=lift, lifted=lifted)
        return Outcome(True, Reason.GRANT, lifted)
    by_policies = _by_policies(state) if state.decided is None else state.decided
    if isinstance(by_policies, State):
        return by_policies._replace(bar=bar, lift=lift)
    if by_policies.allowed and not by_policies.providers:
        lift = frozenset()
    return State(bar=bar, lift=lift, decided=by_policies) if bar or lift else by_policies


def _by_policies(state: State) -> State | Outcome:
    """The same, by what the policies say alone."""
    denied, deny = _first(state.denied, state.deny)
    if denied != UNDECIDED:
        if not deny:
            return Outcome(False, Reason.DENY_RULE, denied)
        return State(deny=deny, denied=denied)
    allowed, allow = _first(state.allowed, state.allow)
    asked, custom = _asked(state)
    if not deny:
        if state.allows and allowed == UNDECIDED and not allow:
            return Outcome(False, Reason.NO_RULE_MATCHED)
        if asked and not custom and (state.conflict or any(not provider for provider, _ in asked)):
            rank = min(asked)[1]
            return Outcome(False, Reason.PROVIDER_DENIED, rank)
        if not custom and not allow:
            providers = tuple(sorted({provider for provider, _ in asked}))
            reason = Reason.ALLOW_RULE if state.allows else Reason.NO_ALLOW_POLICY
            return Outcome(True, reason, allowed, providers)
    return State(
        deny, custom, allow, denied=denied, asked=asked, allowed=allowed, allows=state.allows, conflict=state.conflict
    )


def _barred(state: State) -> tuple[Barred | None, frozenset[Barring]]:
    """What denies first, and what before it still may."""
    matched = [(rank, reason) for rank, reason, rule in state.bar if rule == SATISFIED]
    if state.barred is not None:
        matched.append(state.barred)
    if not matched:
        return None, state.bar
    first = min(matched)
    return first, frozenset(entry for entry in state.bar if entry[0] < first[0])


def _first(found: int, rules: frozenset[Ranked]) -> tuple[int, frozenset[Ranked]]:
    """The first rank that matched, and the rules before it that still may."""
    matched = [rank for rank, rule in rules if rule == SATISFIED]
    if found != UNDECIDED:
        matched.append(found)
    if not matched:
        return UNDECIDED, rules
    first = min(matched)
    return first, frozenset(entry for entry in rules if entry[0] < first)


def _asked(state: State) -> tuple[frozenset[Asked], frozenset[tuple[str, int, Rule]]]:
    """Each provider that must be asked with its first rule, and the rules that may still ask another one."""
    first = dict(state.asked)
    for provider, rank, rule in state.custom:
        if rule == SATISFIED:
            first[provider] = min(rank, first.get(provider, rank))
    rest = frozenset(
        entry for entry in state.custom if entry[2] != SATISFIED and entry[1] < first.get(entry[0], entry[1] + 1)
    )
    return frozenset(first.items()), rest
