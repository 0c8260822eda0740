"""The syntax of an AuthorizationPolicy spec: read once, strictly, into values.

Structure only: what is not a known field, has the wrong type or exceeds a limit is an error here, at every level.
Whether the content makes sense is asked by `validate`, what it means is decided by `compile`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from app.errors import FieldError
from app.limits import PolicyLimits


class Action(StrEnum):
    """What an AuthorizationPolicy does with a request that it matches."""

    ALLOW = "ALLOW"
    DENY = "DENY"
    AUDIT = "AUDIT"
    CUSTOM = "CUSTOM"


@dataclass(frozen=True, slots=True)
class FieldTest:
    """One field of a source or operation with its negation, or one `when` entry.

    `name` is the positive field name (`principals`) or the key of the condition; `pointer` is where it stands.
    """

    name: str
    pointer: str
    not_pointer: str
    values: tuple[str, ...]
    not_values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RuleSpec:
    """One rule: clauses of `from` and `to` (each a tuple of fields, ANDed), and the conditions."""

    pointer: str
    sources: tuple[tuple[FieldTest, ...], ...]
    operations: tuple[tuple[FieldTest, ...], ...]
    conditions: tuple[FieldTest, ...]


@dataclass(frozen=True, slots=True)
class TargetRef:
    """What a policy attaches to by name."""

    pointer: str
    group: str
    kind: str
    name: str
    namespace: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySpec:
    """A whole spec. `selector` is None when there is none; an empty one selects every workload."""

    action: Action = Action.ALLOW
    provider: str | None = None
    selector: Mapping[str, str] | None = None
    target_refs: tuple[TargetRef, ...] = ()
    rules: tuple[RuleSpec, ...] = ()


SOURCE_FIELDS = (
    "principals",
    "requestPrincipals",
    "namespaces",
    "serviceAccounts",
    "trustDomains",
    "ipBlocks",
    "remoteIpBlocks",
)
OPERATION_FIELDS = ("hosts", "ports", "methods", "paths")

_SPEC_FIELDS = frozenset({"action", "provider", "selector", "targetRef", "targetRefs", "rules"})
_REF_FIELDS = frozenset({"group", "kind", "name", "namespace"})


def not_field(name: str) -> str:
    """The name of a field's negation: `notPrincipals` for `principals`."""
    return f"not{name[0].upper()}{name[1:]}"


# Each field with its negation.
_SOURCE = {name: not_field(name) for name in SOURCE_FIELDS}
_OPERATION = {name: not_field(name) for name in OPERATION_FIELDS}
_INNER = {"from": "source", "to": "operation"}
_INNER_FIELDS = {inner: frozenset({inner}) for inner in _INNER.values()}
_CLAUSE_FIELDS = {
    "source": frozenset((*_SOURCE, *_SOURCE.values())),
    "operation": frozenset((*_OPERATION, *_OPERATION.values())),
}
_RULE_FIELDS = frozenset({"from", "to", "when"})
_CONDITION_FIELDS = frozenset({"key", "values", "notValues"})


@dataclass(slots=True)
class SpecReader:
    """Reads a spec and gathers what is wrong with it.

    `errors` are structural: such a policy has no meaning. `empty` are lists and objects written without content,
    which Istio refuses and which would otherwise read as absent.
    """

    limits: PolicyLimits
    errors: list[FieldError] = field(default_factory=list)
    empty: list[FieldError] = field(default_factory=list)

    def read(self, spec: Mapping[str, Any]) -> PolicySpec:
        """The spec as a value; meaningful only when `errors` stays empty."""
        self._known(spec, _SPEC_FIELDS, "/spec")
        return PolicySpec(
            action=self._action(spec),
            provider=self._provider(spec.get("provider")),
            selector=self._selector(spec.get("selector")),
            target_refs=self._target_refs(spec),
            rules=self._rules(spec.get("rules")),
        )

    def _wrong(self, pointer: str, message: str) -> None:
        self.errors.append(FieldError(pointer, message))

    def _known(self, value: Mapping[str, Any], known: frozenset[str], pointer: str) -> None:
        for key in value:
            if key not in known:
                token = key.replace("~", "~0").replace("/", "~1")
                self._wrong(f"{pointer}/{token}", f"this field is not known; known are {', '.join(sorted(known))}")

    def _object(self, value: Any, pointer: str) -> Mapping[str, Any]:
        if isinstance(value, dict):
            return value
        self._wrong(pointer, "an object is wanted")
        return {}

    def _list(self, value: Any, pointer: str, most: int) -> list[Any]:
        if value is None:
            return []
        if not isinstance(value, list):
            self._wrong(pointer, "a list is wanted")
            return []
        if len(value) > most:
            self._wrong(pointer, f"at most {most} entries are allowed; split the policy")
            return []
        return value

    def _text(self, value: Any, pointer: str) -> str:
        if not isinstance(value, str):
            self._wrong(pointer, "a string is wanted; put it in quotes")
            return ""
        if len(value) > self.limits.max_value_chars:
            self._wrong(pointer, f"longer than {self.limits.max_value_chars} characters")
        elif not value.isprintable() and any(ord(char) < 0x20 or ord(char) == 0x7F for char in value):
            self._wrong(pointer, "control characters can never match; remove them")
        return value

    def _texts(self, value: Any, pointer: str) -> tuple[str, ...]:
        if value is None:
            return ()
        values = self._list(value, pointer, self.limits.max_items)
        if isinstance(value, list) and not value:
            self.empty.append(FieldError(pointer, "an empty list; remove the field or list values"))
        return tuple(self._text(item, f"{pointer}/{index}") for index, item in enumerate(values))

    def _action(self, spec: Mapping[str, Any]) -> Action:
        try:
            return Action(spec.get("action") or "ALLOW")
        except ValueError:
            self._wrong("/spec/action", f"one of {', '.join(Action)} is wanted")
            return Action.DENY

    def _provider(self, value: Any) -> str | None:
        if value is None:
            return None
        provider = self._object(value, "/spec/provider")
        self._known(provider, frozenset({"name"}), "/spec/provider")
        return self._text(provider.get("name", ""), "/spec/provider/name")

    def _selector(self, value: Any) -> Mapping[str, str] | None:
        if value is None:
            return None
        selector = self._object(value, "/spec/selector")
        self._known(selector, frozenset({"matchLabels"}), "/spec/selector")
        labels = selector.get("matchLabels")
        if labels is None:
            return {}
        return {
            key: self._text(label, f"/spec/selector/matchLabels/{key.replace('~', '~0').replace('/', '~1')}")
            for key, label in self._object(labels, "/spec/selector/matchLabels").items()
        }

    def _target_refs(self, spec: Mapping[str, Any]) -> tuple[TargetRef, ...]:
        refs = self._list(spec.get("targetRefs"), "/spec/targetRefs", self.limits.max_target_refs)
        if refs:
            return tuple(self._target_ref(ref, f"/spec/targetRefs/{index}") for index, ref in enumerate(refs))
        if spec.get("targetRef") is not None:
            return (self._target_ref(spec["targetRef"], "/spec/targetRef"),)
        return ()

    def _target_ref(self, value: Any, pointer: str) -> TargetRef:
        ref = self._object(value, pointer)
        self._known(ref, _REF_FIELDS, pointer)
        texts = {key: self._text(ref.get(key) or "", f"{pointer}/{key}") for key in _REF_FIELDS}
        return TargetRef(pointer, texts["group"], texts["kind"], texts["name"], texts["namespace"])

    def _rules(self, value: Any) -> tuple[RuleSpec, ...]:
        rules = self._list(value, "/spec/rules", self.limits.max_rules)
        return tuple(self._rule(rule, f"/spec/rules/{index}") for index, rule in enumerate(rules))

    def _rule(self, value: Any, pointer: str) -> RuleSpec:
        rule = self._object(value, pointer)
        self._known(rule, _RULE_FIELDS, pointer)
        return RuleSpec(
            pointer,
            self._clauses(rule, "from", _SOURCE, pointer),
            self._clauses(rule, "to", _OPERATION, pointer),
            self._conditions(rule, pointer),
        )

    def _clauses(
        self, rule: Mapping[str, Any], part: str, fields: Mapping[str, str], pointer: str
    ) -> tuple[tuple[FieldTest, ...], ...]:
        if part not in rule:
            return ()
        here = f"{pointer}/{part}"
        items = self._list(rule[part], here, self.limits.max_items)
        inner = _INNER[part]
        if not items:
            self.empty.append(FieldError(here, f"`{part}` has no entries; remove it, or name a {inner}"))
        return tuple(self._clause(item, inner, fields, f"{here}/{index}") for index, item in enumerate(items))

    def _clause(self, value: Any, inner: str, fields: Mapping[str, str], pointer: str) -> tuple[FieldTest, ...]:
        item = self._object(value, pointer)
        self._known(item, _INNER_FIELDS[inner], pointer)
        here = f"{pointer}/{inner}"
        content = self._object(item.get(inner) or {}, here)
        if not content:
            self.empty.append(FieldError(here, f"the {inner} is empty; give it at least one field"))
        self._known(content, _CLAUSE_FIELDS[inner], here)
        tests = []
        for name, negated in fields.items():
            if name in content or negated in content:
                values = self._texts(content.get(name), f"{here}/{name}")
                not_values = self._texts(content.get(negated), f"{here}/{negated}")
                if values or not_values:
                    tests.append(FieldTest(name, f"{here}/{name}", f"{here}/{negated}", values, not_values))
        return tuple(tests)

    def _conditions(self, rule: Mapping[str, Any], pointer: str) -> tuple[FieldTest, ...]:
        items = self._list(rule.get("when"), f"{pointer}/when", self.limits.max_items)
        tests = []
        for index, value in enumerate(items):
            here = f"{pointer}/when/{index}"
            item = self._object(value, here)
            self._known(item, _CONDITION_FIELDS, here)
            key = self._text(item.get("key", ""), f"{here}/key")
            values = self._texts(item.get("values"), f"{here}/values")
            not_values = self._texts(item.get("notValues"), f"{here}/notValues")
            tests.append(FieldTest(key, f"{here}/values", f"{here}/notValues", values, not_values))
        return tuple(tests)
