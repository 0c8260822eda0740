"""What is left to ask of a rule when a part of the request is known.

A rule is a set of groups that must all hold: its `from`, its `to`, each of its conditions. A group is a set of clauses
of which one must hold; a clause is a sequence of tests by part. Under hardened matching a value may have several
readings: a rule that matches in some reading then keeps every clause that is alive in some reading, a rule that must
match in every reading gets a group for each. So readings of path and host are followed together, as `evaluate` does.
"""

from __future__ import annotations

from collections.abc import Iterable

Test = tuple[int, bool]  # patterns as bits, negated
Clause = tuple[tuple[int, tuple[Test, ...]], ...]  # number of the part and its tests, in the order of the parts
Group = frozenset[Clause]
Rule = frozenset[Group]

SATISFIED: Rule = frozenset()
_DONE: Clause = ()


def rule_of(groups: Iterable[Iterable[Clause]]) -> Rule | None:
    """A rule of groups; those with a clause without tests hold. None when one has no clause at all."""
    kept: set[Group] = set()
    for clauses in groups:
        group = frozenset(clauses)
        if not group:
            return None
        if _DONE not in group:
            kept.add(group)
    return frozenset(kept)


def next_part(rule: Rule) -> int:
    """The first part that something is still asked about; the rule must not be satisfied."""
    return min(clause[0][0] for group in rule for clause in group)


def tests_at(rule: Rule, part: int) -> set[tuple[Test, ...]]:
    """The tests that decide how a rule goes on from a part."""
    return {clause[0][1] for group in rule for clause in group if clause[0][0] == part}


def holds(tests: tuple[Test, ...], reading: int) -> bool:
    """Whether tests hold together in a reading, given as the bits of the patterns that match in it."""
    return all(bool(reading & bits) is not negated for bits, negated in tests)


def advance(rule: Rule, part: int, readings: tuple[int, ...], *, wide: bool) -> Rule | None:
    """What is left of a rule when a part has these readings, None when it cannot match any more."""
    groups: list[Iterable[Clause]] = []
    for group in rule:
        if all(clause[0][0] != part for clause in group):
            groups.append(group)
            continue
        alive = [_alive(group, part, reading) for reading in readings]
        if wide:
            groups.append(frozenset().union(*alive))
        else:
            groups.extend(alive)
    return rule_of(groups)


def _alive(group: Group, part: int, reading: int) -> Group:
    return frozenset(
        clause[1:] if clause[0][0] == part else clause
        for clause in group
        if clause[0][0] != part or holds(clause[0][1], reading)
    )
