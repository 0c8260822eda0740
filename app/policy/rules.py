"""A compiled rule: the same tests twice, as a list to explain and sorted by dimension to evaluate fast."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from app.policy.authorization_policy import Action, FieldTest, RuleSpec
from app.policy.decision import Decision, Reason
from app.policy.field_tests import (
    ZTUNNEL_FIELDS,
    Dimension,
    PolicyContext,
    Test,
    field_tests,
    is_http_only,
    is_known_key,
    sound_values,
)
from app.policy.identity_matchers import SCHEME, expand_principals
from app.policy.matchers import Matches, StringForms, has_template
from app.policy.request import Request

Clause = tuple[Test, ...]
RequestTest = Callable[[Request], bool]


class Place(Enum):
    """Where a rule is evaluated."""

    HTTP = "http"
    TCP = "tcp"
    ZTUNNEL = "ztunnel"


class Operation:
    """One entry of `to`, sorted by dimension; None where nothing is asked.

    `path` and `host` compare one spelling with values and negated values together; the four others are for readings
    of several spellings.
    """

    __slots__ = ("host", "host_not", "host_values", "method", "path", "path_not", "path_values", "request")

    def __init__(self, clause: Clause) -> None:
        self.method = _both(clause, Dimension.METHOD)
        self.path = _both(clause, Dimension.PATH)
        self.host = _both(clause, Dimension.HOST)
        self.path_values, self.path_not = _apart(clause, Dimension.PATH)
        self.host_values, self.host_not = _apart(clause, Dimension.HOST)
        self.request = _request_tests(clause)


class HeaderTests:
    """All conditions on one header: they hold or fail together, in one reading of it."""

    __slots__ = ("name", "tests")

    def __init__(self, name: str, tests: tuple[Test, ...]) -> None:
        self.name = name
        self.tests = tests


class CompiledRule:
    """One rule at one place. `decision` is what is answered when it decides."""

    __slots__ = (
        "conditions",
        "decision",
        "headers",
        "id",
        "identity",
        "identity_keys",
        "method_keys",
        "operation_clauses",
        "operations",
        "path_keys",
        "policy",
        "request",
        "source_clauses",
        "sources",
        "uses_hosts",
        "uses_identity",
    )

    def __init__(
        self,
        rule_id: str,
        policy: str,
        action: Action,
        sources: tuple[Clause, ...],
        operations: tuple[Clause, ...],
        conditions: Clause,
    ) -> None:
        self.id = rule_id
        self.policy = policy
        self.source_clauses = sources
        self.operation_clauses = operations
        self.conditions = conditions
        self.decision = _decision(action, policy, rule_id)
        self.sources = tuple((_identity_tests(clause), _request_tests(clause)) for clause in sources)
        self.operations = tuple(Operation(clause) for clause in operations)
        self.identity = _identity_tests(conditions)
        self.request = _request_tests(conditions)
        self.headers = _headers(conditions)
        self.uses_identity = bool(self.identity) or any(identity for identity, _ in self.sources)
        self.uses_hosts = any(operation.host is not None for operation in self.operations) or any(
            header.name == ":authority" for header in self.headers
        )
        self.identity_keys: tuple[str, ...] | None = None
        self.path_keys = _keys(operations, _path_keys)
        self.method_keys = _keys(operations, _method_keys)


def compile_rule(
    spec: RuleSpec, index: int, action: Action, context: PolicyContext, place: Place
) -> CompiledRule | None:
    """The rule at a place, None when it can never match there."""
    if context.unchecked and place is not Place.ZTUNNEL and not _knows_keys(spec):
        return None  # istiod passes over such a rule, whatever the action
    sources = [_clause(fields, context, place) for fields in spec.sources]
    operations = [_clause(fields, context, place) for fields in spec.operations]
    conditions = [
        _clause((field,), context, place)
        for field in spec.conditions
        if place is Place.ZTUNNEL or field.values or field.not_values
    ]
    everything = (*sources, *operations, *conditions)
    if action is Action.ALLOW and any(dropped for _, dropped in everything):
        return None  # it must never become wider by what cannot be asked
    if place is Place.ZTUNNEL:
        # ztunnel passes over an entry in which nothing is left; where no entry is left, the rule matches nothing.
        sources, had_sources = [item for item in sources if item[0]], bool(sources)
        operations, had_operations = [item for item in operations if item[0]], bool(operations)
        if (had_sources and not sources) or (had_operations and not operations):
            return None
        if not all(tests for tests, _ in conditions):
            return None
    rule = CompiledRule(
        f"ns[{context.namespace}]-policy[{context.name}]-rule[{index}]",
        f"{context.namespace}/{context.name}",
        action,
        tuple(tests for tests, _ in sources),
        tuple(tests for tests, _ in operations),
        tuple(test for tests, _ in conditions for test in tests),
    )
    if place is not Place.ZTUNNEL:
        rule.identity_keys = _identity_keys(spec, context)
    return rule


def _knows_keys(spec: RuleSpec) -> bool:
    return all(is_known_key(condition.name) for condition in spec.conditions)


def _clause(fields: tuple[FieldTest, ...], context: PolicyContext, place: Place) -> tuple[Clause, bool]:
    """The tests of one entry at a place, and whether some were left out because they cannot be asked there."""
    tests: list[Test] = []
    dropped = False
    for written in fields:
        field = sound_values(written) if context.unchecked else written
        if field is not written:
            dropped = True
        if (place is Place.TCP and is_http_only(field.name)) or (
            place is Place.ZTUNNEL and field.name not in ZTUNNEL_FIELDS
        ):
            dropped = True
        else:
            tests.extend(field_tests(field, context, at_ztunnel=place is Place.ZTUNNEL))
    return tuple(tests), dropped


def _decision(action: Action, policy: str, rule_id: str) -> Decision:
    match action:
        case Action.ALLOW:
            return Decision(True, Reason.ALLOW_RULE, policy, rule_id)
        case Action.CUSTOM:
            return Decision(False, Reason.PROVIDER_DENIED, policy, rule_id)
        case Action.DENY | Action.AUDIT:
            return Decision(False, Reason.DENY_RULE, policy, rule_id)


def _negation(matches: Matches) -> Matches:
    return lambda value: not matches(value)


def _both(clause: Clause, dimension: Dimension) -> Matches | None:
    """One function for all tests of a dimension, for a single spelling."""
    functions = [
        _negation(test.matches) if test.negated else test.matches for test in clause if test.dimension is dimension
    ]
    if len(functions) < 2:
        return functions[0] if functions else None
    first, second = functions  # a field has values and negated values, never more
    return lambda value: first(value) and second(value)


def _apart(clause: Clause, dimension: Dimension) -> tuple[Matches | None, Matches | None]:
    found = {test.negated: test.matches for test in clause if test.dimension is dimension}
    return found.get(False), found.get(True)


def _identity_tests(clause: Clause) -> tuple[Matches, ...]:
    return tuple(
        _negation(test.matches) if test.negated else test.matches
        for test in clause
        if test.dimension is Dimension.IDENTITY
    )


def _request_tests(clause: Clause) -> tuple[RequestTest, ...]:
    return tuple(
        _request_negation(test.matches) if test.negated else test.matches
        for test in clause
        if test.dimension is Dimension.REQUEST
    )


def _request_negation(matches: RequestTest) -> RequestTest:
    return lambda request: not matches(request)


def _headers(conditions: Clause) -> tuple[HeaderTests, ...]:
    names: dict[str, list[Test]] = {}
    for test in conditions:
        if test.dimension is Dimension.HEADER:
            names.setdefault(test.name, []).append(test)
    return tuple(HeaderTests(name, tuple(tests)) for name, tests in names.items())


def _keys(clauses: tuple[Clause, ...], of_clause: Callable[[Clause], list[str] | None]) -> tuple[str, ...] | None:
    """Index keys of which a matching request has at least one; None when there is no such list."""
    keys: dict[str, None] = {}
    for clause in clauses:
        found = of_clause(clause)
        if found is None:
            return None
        keys.update(dict.fromkeys(found))
    return tuple(keys) if clauses else None


def _values(clause: Clause, dimension: Dimension) -> tuple[str, ...]:
    return next((test.values for test in clause if test.dimension is dimension and not test.negated), ())


def _path_keys(clause: Clause) -> list[str] | None:
    """`=path` for an exact path, `/segment` for a prefix with a whole first segment."""
    values = _values(clause, Dimension.PATH)
    keys = []
    for value in values:
        if has_template(value) or value.startswith("*"):
            return None
        if not value.endswith("*"):
            keys.append("=" + value)
            continue
        at = value.find("/", 1)
        if not value.startswith("/") or at < 0:
            return None
        keys.append(value[:at])
    return keys or None


def _method_keys(clause: Clause) -> list[str] | None:
    values = _values(clause, Dimension.METHOD)
    return list(values) if values and StringForms(values).only_exact else None


def _identity_keys(spec: RuleSpec, context: PolicyContext) -> tuple[str, ...] | None:
    """Full principals, and `/ns/x/` for namespaces, of which a matching peer has at least one."""
    for condition in spec.conditions:
        keys = _field_keys(condition, context)
        if keys is not None:
            return tuple(keys)
    found: dict[str, None] = {}
    for clause in spec.sources:
        keys = next((keys for keys in (_field_keys(field, context) for field in clause) if keys is not None), None)
        if keys is None:
            return None
        found.update(dict.fromkeys(keys))
    return tuple(found) if spec.sources else None


def _field_keys(field: FieldTest, context: PolicyContext) -> list[str] | None:
    if not field.values or any("*" in value for value in field.values):
        return None
    if field.name in ("principals", "source.principal"):
        expanded = expand_principals(field.values, context.mesh)
        return None if any("*" in value for value in expanded) else [SCHEME + value for value in expanded]
    if field.name in ("namespaces", "source.namespace") and not any("/" in value for value in field.values):
        return [f"/ns/{value}/" for value in field.values]
    return None
