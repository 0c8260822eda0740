"""What each field of a rule compares with what: one `Test` for each list of values that a policy writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from app.errors import FieldError
from app.policy import claims, identity_matchers
from app.policy.authorization_policy import FieldTest, PolicySpec
from app.policy.matchers import (
    Matches,
    block_matcher,
    has_template,
    parse_block,
    parse_port,
    path_matcher,
    string_matcher,
    template_problem,
)
from app.policy.mesh import MeshConfig
from app.policy.request import Request


class Dimension(Enum):
    """Which part of a request a test looks at."""

    IDENTITY = "identity"  # matches(principal)
    METHOD = "method"  # matches(method)
    PATH = "path"  # matches(spelling)
    HOST = "host"  # matches(spelling)
    HEADER = "header"  # matches(spelling) of the header `name`
    REQUEST = "request"  # matches(request)


@dataclass(frozen=True, slots=True)
class PolicyContext:
    """What the fields of a policy are read in.

    `unchecked` says that the policy may hold what `content_problems` finds; it then means what istiod makes of it.
    """

    namespace: str
    name: str
    mesh: MeshConfig
    unchecked: bool = False


@dataclass(frozen=True, slots=True)
class Test:
    """One list of values. It holds when `matches` says so, or says not so where it is `negated`."""

    dimension: Dimension
    name: str  # the field as written, or the header's name
    pointer: str
    values: tuple[str, ...]
    negated: bool
    matches: Callable[[Any], bool]


# Fields and keys that ask about HTTP; a TCP filter chain does not know them.
HTTP_ONLY = frozenset({"requestPrincipals", "hosts", "methods", "paths"})
# What istiod converts for ztunnel; everything else is layer 7 there.
ZTUNNEL_FIELDS = frozenset(
    {
        "principals",
        "namespaces",
        "serviceAccounts",
        "ipBlocks",
        "ports",
        "source.ip",
        "source.namespace",
        "source.principal",
        "destination.ip",
        "destination.port",
    }
)
_HEADER_KEY = "request.headers"
_CLAIM_KEY = "request.auth.claims"
_METADATA_KEY = "experimental.envoy.filters."

# Condition keys that mean the same as a field of a source or operation.
_SAME_AS = {
    "source.ip": "ipBlocks",
    "remote.ip": "remoteIpBlocks",
    "source.namespace": "namespaces",
    "source.principal": "principals",
    "source.serviceAccount": "serviceAccounts",
    "source.trustDomain": "trustDomains",
    "request.auth.principal": "requestPrincipals",
    "destination.port": "ports",
}
_OTHER_KEYS = frozenset({"destination.ip", "request.auth.audiences", "request.auth.presenter", "connection.sni"})


def is_http_only(name: str) -> bool:
    """Whether a field or key asks about HTTP."""
    return name in HTTP_ONLY or name.startswith("request.")


def canonical_name(name: str) -> str:
    """The field that means the same as a condition's key; any other name stays as it is."""
    return _SAME_AS.get(name, name)


def claim_path(name: str) -> tuple[str, ...] | None:
    """The names that lead to the claim that a condition asks about, None when it asks about something else."""
    if name in _CLAIMS:
        return _CLAIMS[name]
    return tuple(claims.claim_names(name, _CLAIM_KEY) or ()) or None if name.startswith(_CLAIM_KEY) else None


def is_known_key(key: str) -> bool:
    """Whether a condition asks about something that exists, however its brackets are written."""
    return key in _SAME_AS or key in _OTHER_KEYS or key.startswith((_HEADER_KEY, _CLAIM_KEY, _METADATA_KEY))


def key_problem(key: str) -> str | None:
    """What is wrong with the key of a condition, None when it is known."""
    if key in _SAME_AS or key in _OTHER_KEYS:
        return None
    if key.startswith(_HEADER_KEY):
        return None if claims.in_brackets(key, _HEADER_KEY) else "write request.headers[name]"
    if key.startswith(_CLAIM_KEY):
        return None if claims.claim_names(key, _CLAIM_KEY) else "write request.auth.claims[name], nested as [a][b]"
    if key.startswith(_METADATA_KEY):
        return None if claims.metadata_key(key) else "write experimental.envoy.filters.<filter>[name]"
    return "this key is not known: see the `when` keys of Istio's AuthorizationPolicy" if key else "a key is wanted"


def content_problems(spec: PolicySpec) -> list[FieldError]:
    """Values that have no meaning: addresses, ports, templates and keys that are none."""
    problems: list[FieldError] = []
    for rule in spec.rules:
        for clause in (*rule.sources, *rule.operations):
            for field in clause:
                problems.extend(value_problems(field))
        for field in rule.conditions:
            problem = key_problem(field.name)
            if problem is not None:
                problems.append(FieldError(field.pointer.rpartition("/")[0] + "/key", problem))
            problems.extend(value_problems(field))
    return problems


def value_problems(field: FieldTest) -> list[FieldError]:
    """The values of one field that have no meaning."""
    kind = _SAME_AS.get(field.name, field.name)
    problems = []
    for pointer, values in ((field.pointer, field.values), (field.not_pointer, field.not_values)):
        for index, value in enumerate(values):
            problem = _value_problem(kind, value)
            if problem is not None:
                problems.append(FieldError(f"{pointer}/{index}", problem))
    return problems


def sound_values(field: FieldTest) -> FieldTest:
    """The field with only the values that mean something; the same one when all do."""
    if field.name.startswith((_HEADER_KEY, _CLAIM_KEY, _METADATA_KEY)) and key_problem(field.name) is not None:
        return replace(field, values=(), not_values=())
    kind = _SAME_AS.get(field.name, field.name)
    values = tuple(value for value in field.values if _value_problem(kind, value) is None)
    not_values = tuple(value for value in field.not_values if _value_problem(kind, value) is None)
    if values == field.values and not_values == field.not_values:
        return field
    return replace(field, values=values, not_values=not_values)


def _value_problem(kind: str, value: str) -> str | None:
    if kind in ("ipBlocks", "remoteIpBlocks", "destination.ip"):
        return None if parse_block(value) else "write an IP address or a CIDR block, 10.0.0.0/8"
    if kind == "ports":
        return None if parse_port(value) is not None else "write a port, 0 to 65535"
    if kind == "paths" and has_template(value):
        return template_problem(value)
    return None


def field_tests(field: FieldTest, context: PolicyContext, *, at_ztunnel: bool) -> list[Test]:
    """The tests of one field or condition: one for the values, one for the negated values."""
    tests = []
    for values, pointer, negated in (
        (field.values, field.pointer, False),
        (field.not_values, field.not_pointer, True),
    ):
        if values:
            dimension, name, matches = _compare(field.name, values, context, at_ztunnel=at_ztunnel)
            tests.append(Test(dimension, name, pointer, values, negated, matches))
    return tests


def _compare(
    name: str, values: tuple[str, ...], context: PolicyContext, *, at_ztunnel: bool
) -> tuple[Dimension, str, Callable[[Any], bool]]:
    kind = _SAME_AS.get(name, name)
    if kind in ("principals", "namespaces", "serviceAccounts", "trustDomains"):
        return Dimension.IDENTITY, name, identity_test(kind, values, context, at_ztunnel=at_ztunnel)
    match kind:
        case "methods":
            return Dimension.METHOD, name, string_matcher(values)
        case "paths":
            return Dimension.PATH, name, path_matcher(values)
        case "hosts":
            return Dimension.HOST, name, string_matcher(value.lower() for value in values)
        case _ if kind.startswith(_HEADER_KEY):
            header = (claims.in_brackets(name, _HEADER_KEY) or "").lower()
            if header == "host":
                header = ":authority"
            matches = _present if "*" in values else string_matcher(values)
            return Dimension.HEADER, header, matches
        case _:
            return Dimension.REQUEST, name, _request_test(kind, values)


def _present(_: str) -> bool:
    return True


def identity_test(
    kind: str, values: Sequence[str], context: PolicyContext, *, at_ztunnel: bool
) -> Callable[[str], bool]:
    """The comparison of a field that asks who the peer is."""
    if at_ztunnel:
        return identity_matchers.ztunnel_matcher(kind, values, context.namespace)
    match kind:
        case "principals":
            return identity_matchers.principal_matcher(identity_matchers.expand_principals(values, context.mesh))
        case "namespaces":
            return identity_matchers.namespace_matcher(values)
        case "serviceAccounts":
            return identity_matchers.service_account_matcher(values, context.namespace)
        case _:
            return identity_matchers.trust_domain_matcher(identity_matchers.expand_trust_domains(values, context.mesh))


def _request_test(kind: str, values: tuple[str, ...]) -> Callable[[Request], bool]:
    if kind in _ADDRESSES:
        return _address_test(block_matcher(values), _ADDRESSES[kind])
    if kind == "ports":
        ports = frozenset(port for port in map(parse_port, values) if port is not None)
        return lambda request: request.port in ports
    if kind == "connection.sni":
        matches = string_matcher(values)
        return lambda request: bool(request.sni) and matches(request.sni)
    if kind == "requestPrincipals":
        return claims.request_principal_test(values)
    if kind in _CLAIMS or kind.startswith(_CLAIM_KEY):
        return claims.claim_test(_CLAIMS.get(kind) or claims.claim_names(kind, _CLAIM_KEY) or ("",), values)
    filter_name, name = claims.metadata_key(kind) or ("", "")
    return claims.metadata_test(filter_name, name, values)


def _address_test(inside: Matches, address: Callable[[Request], str]) -> Callable[[Request], bool]:
    return lambda request: inside(address(request))


_ADDRESSES: Mapping[str, Callable[[Request], str]] = {
    "ipBlocks": lambda request: request.source_ip,
    "remoteIpBlocks": lambda request: request.remote_ip or request.source_ip,
    "destination.ip": lambda request: request.destination_ip,
}
_CLAIMS = {"request.auth.audiences": ("aud",), "request.auth.presenter": ("azp",)}
