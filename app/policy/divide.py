"""Divides all requests at a target into classes, each decided in one way: complete, or an error that says why not.

Part by part (who calls, path, method, …) the atoms are divided by what the rules that may still match ask about them;
where nothing more is asked, the class is decided. States that are alike are followed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from app.errors import AppError, ErrorCode
from app.limits import PolicyLimits
from app.policy.atoms import Atoms
from app.policy.residual import Rule, Test, advance, next_part, tests_at
from app.policy.walk_state import Outcome, State, settled

_UNMERGED = 20  # classes that are looked at for each one that is left when like ones are put together

States = tuple[State | Outcome, ...]
Leaf = tuple[Outcome, ...]


class RequestClass(NamedTuple):
    """Requests by the atoms of their parts, and the outcomes; parts that are not there do not matter."""

    atoms: Mapping[int, int]  # number of the part → atoms as bits
    outcomes: Leaf


class _Node(NamedTuple):
    part: int
    children: tuple[tuple[int, Any], ...]  # atoms as bits → node or leaf


class Divider:
    """Follows one set of policies, or two at once, at one target."""

    def __init__(self, parts: Sequence[Atoms], limits: PolicyLimits, *, same_rules: bool) -> None:
        """`same_rules`: with two sets, equal states mean equal decisions (their meshes are the same)."""
        self._parts = parts
        self._limits = limits
        self._same_rules = same_rules
        self._steps = 0
        self._known: dict[States, Any] = {}
        self._masks: dict[tuple[int, tuple[Test, ...]], int] = {}
        self._advanced: dict[tuple[Rule, int, int, int, bool], Rule | None] = {}

    def classes(self, states: Sequence[State], wanted: Callable[[Leaf], bool]) -> list[RequestClass]:
        """Every class with a wanted outcome.

        Raises:
            AppError: `TOO_LARGE` when it would take more steps, or are more classes, than the limits allow.
        """
        root = self._visit(tuple(map(settled, states)), wanted)
        most = self._limits.max_question_classes
        found: list[RequestClass] = []
        for atoms, outcomes in _paths(root):
            found.append(RequestClass(atoms, outcomes))
            if len(found) > most * _UNMERGED:
                raise _too_many(f"{most} classes", "max_question_classes")
        merged = self._merged(self._merged(found))
        if len(merged) > most:
            raise _too_many(f"{most} classes", "max_question_classes")
        return merged

    def _merged(self, classes: list[RequestClass]) -> list[RequestClass]:
        """The classes with those made one that differ in a single part; a part that then does not matter is dropped."""
        for part, atoms in enumerate(self._parts):
            together: dict[Any, dict[int, int]] = {}
            for one in classes:
                key = (frozenset(item for item in one.atoms.items() if item[0] != part), one.outcomes)
                union = together.setdefault(key, {**one.atoms, part: 0})
                union[part] |= one.atoms.get(part, atoms.every)
            classes = [
                RequestClass({at: block for at, block in union.items() if block != self._parts[at].every}, outcomes)
                for (_, outcomes), union in together.items()
            ]
        return classes

    def _visit(self, states: States, wanted: Callable[[Leaf], bool]) -> Any:
        if states in self._known:
            return self._known[states]
        self._known[states] = node = self._divide(states, wanted)
        return node

    def _divide(self, states: States, wanted: Callable[[Leaf], bool]) -> Any:
        if self._same_rules and len(states) > 1 and states[0] == states[1]:
            return None
        rules = [set() if isinstance(state, Outcome) else state.rules for state in states]
        if not any(rules):
            outcomes = tuple(state for state in states if isinstance(state, Outcome))
            return outcomes if wanted(outcomes) else None
        part = min(next_part(rule) for side in rules for rule in side)
        children: dict[States, int] = {}
        for block in self._blocks(part, rules, self._changed(states)):
            self._count(sum(map(len, rules)))
            after = tuple(self._after(state, side, part, block) for side, state in enumerate(states))
            children[after] = children.get(after, 0) | block
        merged: dict[Any, tuple[int, Any]] = {}
        for after, block in children.items():
            child = self._visit(after, wanted)
            if child is not None:
                key = id(child) if isinstance(child, _Node) else child
                before = merged.get(key, (0, child))[0]
                merged[key] = (before | block, child)
        if not merged:
            return None
        if len(merged) == 1:
            ((covered, only),) = merged.values()
            if covered == self._parts[part].every:
                return only
        return _Node(part, tuple(merged.values()))

    def _changed(self, states: States) -> list[tuple[int, bool, Rule]] | None:
        """What two states do not share: side, whether it is wide, and the rule; None where all must be followed."""
        if not self._same_rules or len(states) != 2:
            return None
        before, after = states
        if isinstance(before, Outcome) or isinstance(after, Outcome) or before[3:] != after[3:]:
            return None
        return [
            (side, wide, entry[-1])
            for wide, pair in (
                (True, (before.deny, after.deny)),
                (True, (before.custom, after.custom)),
                (False, (before.allow, after.allow)),
            )
            for side in (0, 1)
            for entry in pair[side] - pair[1 - side]
        ]

    def _blocks(
        self, part: int, rules: Sequence[Iterable[Rule]], changed: list[tuple[int, bool, Rule]] | None
    ) -> list[int]:
        """The atoms of a part, those together of which the rules cannot tell one from another.

        Without those in which nothing is left of what has changed: both sets go on alike there.
        """
        atoms = self._parts[part].atoms
        plain = self._parts[part].plain
        blocks = [plain] if plain else []
        several = [1 << at for at, atom in enumerate(atoms) if not atom.is_plain]
        if changed is not None:
            blocks = self._split(part, blocks, ([rule] for _, _, rule in changed))
            blocks = [block for block in blocks if self._matters(part, block, changed)]
            several = [block for block in several if self._matters(part, block, changed)]
        return self._split(part, blocks, rules) + several

    def _split(self, part: int, blocks: list[int], rules: Iterable[Iterable[Rule]]) -> list[int]:
        for live in rules:
            for tests in {tests for rule in live for tests in tests_at(rule, part)}:
                mask = self._mask(part, tests)
                blocks = [half for block in blocks for half in (block & mask, block & ~mask) if half]
        return blocks

    def _matters(self, part: int, block: int, changed: list[tuple[int, bool, Rule]]) -> bool:
        at = _lowest(block)
        return any(self._advance(rule, part, at, side, wide=wide) is not None for side, wide, rule in changed)

    def _mask(self, part: int, tests: tuple[Test, ...]) -> int:
        key = (part, tests)
        if key not in self._masks:
            self._masks[key] = self._parts[part].holding(tests)
        return self._masks[key]

    def _after(self, state: State | Outcome, side: int, part: int, block: int) -> State | Outcome:
        if isinstance(state, Outcome):
            return state
        at = _lowest(block)

        def kept(entries: Iterable[Any], *, wide: bool) -> Iterator[Any]:
            for entry in entries:
                rule = self._advance(entry[-1], part, at, side, wide=wide)
                if rule is not None:
                    yield (*entry[:-1], rule)

        return settled(
            state._replace(
                deny=frozenset(kept(state.deny, wide=True)),
                custom=frozenset(kept(state.custom, wide=True)),
                allow=frozenset(kept(state.allow, wide=False)),
                bar=frozenset(kept(state.bar, wide=True)),
                lift=frozenset(kept(state.lift, wide=False)),
            )
        )

    def _advance(self, rule: Rule, part: int, at: int, side: int, *, wide: bool) -> Rule | None:
        if not rule:
            return rule
        key = (rule, part, at, side, wide)
        try:
            return self._advanced[key]
        except KeyError:
            readings = self._parts[part].atoms[at].readings[side]
            self._advanced[key] = left = advance(rule, part, readings, wide=wide)
            return left

    def _count(self, steps: int) -> None:
        self._steps += steps
        if self._steps > self._limits.max_question_steps:
            raise _too_many(f"{self._limits.max_question_steps} steps", "max_question_steps")


def _lowest(block: int) -> int:
    return (block & -block).bit_length() - 1


def _too_many(what: str, limit: str) -> AppError:
    return AppError(
        ErrorCode.TOO_LARGE,
        f"the rules divide the requests into too many classes: more than {what} (policy.{limit}); "
        "narrow the question, such as by --to, --method or --path",
    )


def _paths(root: Any) -> Iterator[tuple[dict[int, int], Leaf]]:
    if root is None:
        return
    waiting: list[tuple[dict[int, int], Any]] = [({}, root)]
    while waiting:
        atoms, node = waiting.pop()
        if not isinstance(node, _Node):
            yield atoms, node
            continue
        waiting.extend(({**atoms, node.part: block}, child) for block, child in reversed(node.children))
