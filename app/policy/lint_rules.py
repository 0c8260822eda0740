"""Doubts about a rule by itself: whether it can match at all, and values that mean something else than they seem to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import combinations

from app.policy.authorization_policy import Action, FieldTest
from app.policy.compile import CompiledPolicy
from app.policy.field_tests import Dimension, PolicyContext, Test, field_tests
from app.policy.finding import Finding, warning
from app.policy.finding_codes import Code
from app.policy.identity_matchers import SCHEME, expand_principals
from app.policy.inclusion import string_includes
from app.policy.lint_places import Surroundings
from app.policy.matchers import has_template, parse_block, parse_port
from app.policy.paths import normalize

_HOST = re.compile(r"[A-Za-z0-9._-]*(?::[0-9]{0,5})?|\[[0-9A-Fa-f:.]*\]?(?::[0-9]{0,5})?")
_STRINGS = {"methods", "paths", "hosts"}
_PRINCIPALS = ("principals", "source.principal")
# What a clause and a condition can both ask about.
_ASKED_TWICE = {
    "ports": "port",
    "destination.port": "port",
    "ipBlocks": "peer",
    "source.ip": "peer",
    "remoteIpBlocks": "client",
    "remote.ip": "client",
    "destination.ip": "destination",
}
# Conditions that a clause may contradict; of many, the first are looked at.
_MAY_CONTRADICT = frozenset(
    {*_ASKED_TWICE, "source.principal", "source.namespace", "source.serviceAccount", "source.trustDomain"}
)
_MOST_BESIDE = 8


def never_matches(policy: CompiledPolicy, _around: Surroundings) -> Iterator[Finding]:
    """Rules that contradict themselves: a part of which no entry can hold, or a condition that cannot.

    For HTTP requests: on TCP, and at ztunnel, a DENY rule loses what it asks about HTTP, its contradictions too.
    """
    for rule in policy.spec.rules:
        reasons = [_contradiction(rule.conditions, policy)]
        beside = [field for field in rule.conditions if field.name in _MAY_CONTRADICT][:_MOST_BESIDE]
        for part in (rule.sources, rule.operations):
            found = [_contradiction((*clause, *beside), policy) for clause in part]
            if found and all(found):
                reasons.append(found[0])
        first = next(filter(None, reasons), "")
        if first:
            yield warning(rule.pointer, f"the rule can never match an HTTP request: {first}", Code.NEVER_MATCHES)


def _contradiction(clause: Sequence[FieldTest], policy: CompiledPolicy) -> str:
    """Why the fields of a clause cannot hold together, empty when they may."""
    for field in clause:
        if field.values and all(_is_impossible(field.name, value, policy.action) for value in field.values):
            return f"no request has {field.name} {', '.join(field.values[:3])}"
        if field.values and field.not_values and _all_excluded(field, policy.context):
            return f"every value of {field.name} is excluded again"
    twice = [field for field in clause if field.values and field.name in _ASKED_TWICE][:_MOST_BESIDE]
    apart = next((pair for pair in combinations(twice, 2) if _are_apart(*pair)), None)
    if apart is not None:
        return f"{apart[0].name} and {apart[1].name} have no value in common"
    principals = next((field for field in clause if field.name in _PRINCIPALS and _only_exact(field.values)), None)
    if principals is None:
        return ""
    tests = [
        test
        for field in clause
        if _is_identity(field, policy.context)
        for test in field_tests(field, policy.context, at_ztunnel=False)
    ]
    candidates = [SCHEME + value for value in expand_principals(principals.values, policy.context.mesh)]
    if any(all(test.matches(candidate) is not test.negated for test in tests) for candidate in candidates):
        return ""
    return "what it asks about the peer's identity contradicts the principals that it names"


def _are_apart(first: FieldTest, second: FieldTest) -> bool:
    """Whether two fields ask about the same port or address, and no value satisfies both."""
    kind = _ASKED_TWICE[first.name]
    if kind != _ASKED_TWICE[second.name]:
        return False
    if kind == "port":
        return {*map(parse_port, first.values)}.isdisjoint(map(parse_port, second.values))
    return not any(_block_in(a, b) or _block_in(b, a) for a in first.values for b in second.values)


def _is_identity(field: FieldTest, context: PolicyContext) -> bool:
    tests = field_tests(field, context, at_ztunnel=False)
    return bool(tests) and tests[0].dimension is Dimension.IDENTITY


def _only_exact(values: Sequence[str]) -> bool:
    return bool(values) and not any("*" in value for value in values)


def _all_excluded(field: FieldTest, context: PolicyContext) -> bool:
    if field.name in _STRINGS or field.name.startswith("request.headers["):
        return _strings_excluded(field, context)
    if field.name in ("ports", "destination.port"):
        return {*map(parse_port, field.values)} <= {*map(parse_port, field.not_values)}
    if field.name in ("ipBlocks", "source.ip", "remoteIpBlocks", "remote.ip", "destination.ip"):
        return all(any(_block_in(value, other) for other in field.not_values) for value in field.values)
    return False


def _strings_excluded(field: FieldTest, context: PolicyContext) -> bool:
    excluded: Test = field_tests(field, context, at_ztunnel=False)[1]
    lowered = field.name == "hosts"
    for value in field.values:
        text = value.lower() if lowered else value
        if "*" not in value and excluded.matches(text):
            continue
        others = [other.lower() if lowered else other for other in field.not_values if not has_template(other)]
        if has_template(value):
            if value not in field.not_values:
                return False
        elif not any(string_includes(other, text) for other in others):
            return False
    return True


def _block_in(inner: str, outer: str) -> bool:
    a, b = parse_block(inner), parse_block(outer)
    return a is not None and b is not None and a[0] == b[0] and a[2] <= b[2] and a[1] >> (b[2] - a[2]) == b[1]


def _is_impossible(name: str, value: str, action: Action) -> bool:
    """Whether no request that comes this far has such a value."""
    match name:
        case "methods":
            return value != value.upper()  # Envoy answers 400 to other methods
        case "paths":
            # A DENY rule also looks at what a backend may decode to a query or fragment.
            return not value.startswith(("/", "*")) or (action is Action.ALLOW and ("?" in value or "#" in value))
        case "hosts":
            text = value.removeprefix("*") if value.startswith("*") else value.removesuffix("*")
            return _HOST.fullmatch(text) is None
        case "principals" | "source.principal":
            return value.startswith(SCHEME)
        case "serviceAccounts" | "source.serviceAccount":
            return "*" in value
        case _:
            return False


def value_doubts(policy: CompiledPolicy, around: Surroundings) -> Iterator[Finding]:
    """Values that match more or less than their author may think."""
    for rule in policy.spec.rules:
        for clause in rule.operations:
            if policy.action is Action.ALLOW and clause and not any(field.values for field in clause):
                yield warning(
                    clause[0].not_pointer,
                    "this allows everything but what is listed; list what is allowed instead",
                    Code.ALLOW_ALL_BUT,
                )
            for field in clause:
                for pointer, values in ((field.pointer, field.values), (field.not_pointer, field.not_values)):
                    for index, value in enumerate(values):
                        yield from _value_doubts(field, value, f"{pointer}/{index}", policy, around)


def _value_doubts(
    field: FieldTest, value: str, here: str, policy: CompiledPolicy, around: Surroundings
) -> Iterator[Finding]:
    if field.name == "hosts":
        yield from _host_doubts(field, value, here)
    elif field.name == "paths" and not has_template(value):
        yield from _path_doubts(field, value, here, policy, around)


def _host_doubts(field: FieldTest, value: str, here: str) -> Iterator[Finding]:
    lowered = value.lower()
    if value.startswith("*"):
        if len(value) > 1 and value[1] not in ".:":
            yield warning(here, f"{value} is also any name that ends so, such as evil{lowered[1:]}", _SUFFIX)
    elif not value.endswith("*") and ":" not in value:
        siblings = {other.lower() for other in (*field.values, *field.not_values)}
        if not {f"{lowered}:*", f"{lowered}*"} & siblings:
            yield warning(
                here, f"a Host may carry a port, which Istio compares: list {value}:* too", Code.HOST_WITHOUT_PORT
            )


_SUFFIX = Code.SUFFIX_WITHOUT_BOUNDARY


def _path_doubts(
    field: FieldTest, value: str, here: str, policy: CompiledPolicy, around: Surroundings
) -> Iterator[Finding]:
    if value.startswith("*"):
        if len(value) > 1 and value[1] not in "/.":
            yield warning(here, f"{value} is also every longer name that ends so; begin it with '/'", _SUFFIX)
        return
    if value.endswith("*"):
        if value[-2:-1] not in ("/", "?", ""):
            yield warning(
                here,
                f"{value} ends inside a segment: it is also {value[:-1]}-x; write {value[:-1]} and {value[:-1]}/*",
                Code.PREFIX_WITHOUT_BOUNDARY,
            )
        return
    mode = around.view.mesh.path_normalization
    if value.startswith("/") and "?" not in value and "#" not in value and normalize(value, mode) != value:
        yield warning(
            here,
            f"Envoy makes {normalize(value, mode) or 'an error 400'} of this path before rules are asked; write that",
            Code.PATH_NOT_NORMALIZED,
        )
    elif _is_exact_deny(field, value, here, policy, around):
        yield warning(
            here,
            f"exact: {value}/ and what lies below pass; list {value.rstrip('/')}/* too",
            Code.EXACT_DENY_PATH,
        )


def _is_exact_deny(field: FieldTest, value: str, here: str, policy: CompiledPolicy, around: Surroundings) -> bool:
    """Whether a DENY rule names one path, and nothing else in it covers the same path with a slash.

    Hardened matching reads both as one, but a sidecar that enforces the policy itself does not.
    """
    if policy.action is not Action.DENY or not here.startswith(f"{field.pointer}/") or value == "/":
        return False
    if around.view.mesh.hardened and policy.spec.target_refs:
        return False
    return not any(string_includes(other, f"{value}/") for other in field.values if not has_template(other))
