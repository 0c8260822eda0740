"""Rules that never decide, because another rule of the same action matches whatever they match."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from app.policy.attachment import policy_keys
from app.policy.authorization_policy import OPERATION_FIELDS, Action, FieldTest, RuleSpec
from app.policy.compile import CompiledPolicy
from app.policy.document import AUTHORIZATION_POLICY
from app.policy.finding import SetFinding, warning
from app.policy.finding_codes import Code
from app.policy.inclusion import is_layer_4, rule_includes
from app.policy.lint_places import Surroundings
from app.policy.mode import Mode
from app.policy.ownership import Effect

_VALUES_A_COMPARISON = 16  # pairs of values that count as one comparison of rules
# The most telling first.
_ANCHORS = ("paths", "hosts", "principals", "serviceAccounts", "namespaces", "methods")


@dataclass(frozen=True, slots=True, eq=False)
class _Ranked:
    """One rule, its place in the order in which rules are walked, and the attach keys of its policy.

    `weight` is how many values it has: what a comparison costs.
    """

    rank: int
    index: int
    policy: CompiledPolicy
    rule: RuleSpec
    keys: frozenset[str]
    weight: int


def shadowed_rules(policies: Sequence[CompiledPolicy], around: Surroundings) -> Iterator[SetFinding]:
    """Each rule that another one includes, at every target that its policy attaches to. Of two equals the later one."""
    left = around.view.table.limits.max_lint_comparisons
    root = around.view.mesh.root_namespace
    for group in _groups(policies):
        index = _Index(group, root)
        for narrow in group:
            for wide in index.candidates(narrow):
                left -= 1 + narrow.weight * wide.weight // _VALUES_A_COMPARISON
                if left < 0:
                    message = "there are too many rules to compare all of them; lint fewer documents at a time"
                    yield SetFinding.about(f"{AUTHORIZATION_POLICY}//", warning("", message, Code.INCOMPLETE))
                    return
                if wide is not narrow and _is_shadowed(narrow, wide, root):
                    by = f"rule {wide.index} of {wide.policy.name}"
                    message = f"{by} matches whatever this rule matches: this one never decides; remove it"
                    yield SetFinding.about(narrow.policy.key, warning(narrow.rule.pointer, message, Code.SHADOWED))
                    break


def _is_shadowed(narrow: _Ranked, wide: _Ranked, root: str) -> bool:
    return _covers(wide, narrow, root) and (wide.rank < narrow.rank or not _covers(narrow, wide, root))


def _covers(wide: _Ranked, narrow: _Ranked, root: str) -> bool:
    """Whether a rule matches, at every target of another one, whatever that one matches."""
    if not _attaches_wherever(wide, narrow, root):
        return False
    return rule_includes(wide.rule, narrow.rule, wide.policy.context, narrow.policy.context)


def _attaches_wherever(wide: _Ranked, narrow: _Ranked, root: str) -> bool:
    if wide.policy.spec.target_refs or narrow.policy.spec.target_refs:
        return bool(wide.policy.spec.target_refs) and bool(narrow.keys) and narrow.keys <= wide.keys
    selector, wanted = wide.policy.spec.selector or {}, narrow.policy.spec.selector or {}
    return wide.policy.namespace in (root, narrow.policy.namespace) and selector.items() <= wanted.items()


def _groups(policies: Iterable[CompiledPolicy]) -> Iterator[list[_Ranked]]:
    """Enforced rules that may shadow each other: of one action, CUSTOM ones of one provider."""
    groups: dict[tuple[Action, str], list[_Ranked]] = {}
    for policy in policies:
        if policy.mode is Mode.ENFORCE and policy.effect is Effect.ENFORCED:
            members = groups.setdefault((policy.action, policy.spec.provider or ""), [])
            keys = frozenset(policy_keys(policy.namespace, policy.spec))
            for index, rule in enumerate(policy.spec.rules):
                members.append(_Ranked(len(members), index, policy, rule, keys, _weight(rule)))
    yield from groups.values()


def _weight(rule: RuleSpec) -> int:
    fields = chain(rule.conditions, *rule.sources, *rule.operations)
    return sum(len(field.values) + len(field.not_values) for field in fields)


class _Index:
    """Rules by what every rule that they include has too; without it each would be compared with each.

    That is a place where the policy attaches and, of a field that names only whole values in every entry
    (`principals: [a, b]`), one of those.
    """

    def __init__(self, rules: Iterable[_Ranked], root: str) -> None:
        self._root = root
        self._found: dict[tuple[str, str, str], list[_Ranked]] = {}
        for ranked in rules:
            if not (ranked.policy.spec.target_refs or is_layer_4(ranked.rule)):
                continue  # ztunnel may enforce it, and makes something else of it
            for place in _places(ranked):
                for anchor in _anchors(ranked) or (_NO_ANCHOR,):
                    self._found.setdefault((place, *anchor), []).append(ranked)

    def candidates(self, narrow: _Ranked) -> Iterator[_Ranked]:
        """The rules that may include this one."""
        places = _places(narrow)[:1]  # whoever attaches wherever this one does attaches here
        if not narrow.policy.spec.target_refs:
            places = list(dict.fromkeys((*places, f"namespace/{self._root}")))
        for place in places:
            for anchor in (_NO_ANCHOR, *_given(narrow)):
                yield from self._found.get((place, *anchor), ())


_NO_ANCHOR = ("", "")


def _places(ranked: _Ranked) -> list[str]:
    """The targets that a policy names, or its namespace."""
    if ranked.policy.spec.target_refs:
        return sorted(ranked.keys)
    return [f"namespace/{ranked.policy.namespace}"]


def _anchors(ranked: _Ranked) -> list[tuple[str, str]]:
    """Values of which every included rule has one as its first: of one field that each entry has, all whole."""
    for name in _ANCHORS:
        clauses = ranked.rule.operations if name in OPERATION_FIELDS else ranked.rule.sources
        values = _whole_values(name, clauses)
        if values:
            return [_anchor(name, value, ranked) for value in dict.fromkeys(values)]
    return []


def _whole_values(name: str, clauses: Sequence[Sequence[FieldTest]]) -> list[str]:
    """The values of a field in all entries, empty when one entry lacks it or one value has a star."""
    found: list[str] = []
    for clause in clauses:
        field = next((field for field in clause if field.name == name and field.values), None)
        if field is None or any("*" in value for value in field.values):
            return []
        found.extend(field.values)
    return found


def _given(ranked: _Ranked) -> Iterator[tuple[str, str]]:
    """The first value of every field of the first entries: what a rule that includes this one may be anchored by."""
    for clauses in (ranked.rule.sources, ranked.rule.operations):
        for field in clauses[0] if clauses else ():
            if field.values:
                yield _anchor(field.name, field.values[0], ranked)


def _anchor(name: str, value: str, ranked: _Ranked) -> tuple[str, str]:
    if name == "serviceAccounts" and "/" not in value:
        value = f"{ranked.policy.namespace}/{value}"
    return name, value.lower()
