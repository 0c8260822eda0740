"""Whether whatever one rule matches another matches too, read off the values as they are written.

Sound and not complete: "yes" is certain, "no" may only mean that the values do not show it. It holds for one reading as
well as for all of them, because it is decided field by field: a value is included in a value of the same field, and
what is excluded is excluded there too. So it holds for exact and hardened matching, at HTTP, TCP and, with
`at_ztunnel`, where clauses lose what ztunnel does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from app.policy.authorization_policy import FieldTest, RuleSpec
from app.policy.field_tests import ZTUNNEL_FIELDS, PolicyContext
from app.policy.identity_matchers import expand_principals, expand_trust_domains
from app.policy.matchers import has_template, parse_block, parse_port, path_matcher

Includes = Callable[[str, str], bool]

_ADDRESSES = frozenset({"ipBlocks", "remoteIpBlocks", "source.ip", "remote.ip", "destination.ip"})
_PORTS = frozenset({"ports", "destination.port"})
_PRINCIPALS = frozenset({"principals", "source.principal"})
_TRUST_DOMAINS = frozenset({"trustDomains", "source.trustDomain"})
_NAMESPACES = frozenset({"namespaces", "source.namespace"})
_ACCOUNTS = frozenset({"serviceAccounts", "source.serviceAccount"})
_STRINGS = frozenset({"methods", "hosts", "connection.sni"})


def rule_includes(wide: RuleSpec, narrow: RuleSpec, wide_in: PolicyContext, narrow_in: PolicyContext) -> bool:
    """Whether every request that `narrow` matches is matched by `wide`, in policies of the same mesh."""
    return (
        _clauses_include(wide.sources, narrow.sources, wide_in, narrow_in)
        and _clauses_include(wide.operations, narrow.operations, wide_in, narrow_in)
        and all(
            any(field_includes(asked, given, wide_in, narrow_in) for given in narrow.conditions)
            for asked in wide.conditions
        )
    )


def is_layer_4(rule: RuleSpec) -> bool:
    """Whether ztunnel knows everything that a rule asks about; then it loses nothing there."""
    fields = (field for clause in (*rule.sources, *rule.operations) for field in clause)
    return all(field.name in ZTUNNEL_FIELDS for field in (*fields, *rule.conditions))


def _clauses_include(
    wide: Sequence[Sequence[FieldTest]],
    narrow: Sequence[Sequence[FieldTest]],
    wide_in: PolicyContext,
    narrow_in: PolicyContext,
) -> bool:
    if not wide:
        return True
    return bool(narrow) and all(
        any(
            all(any(field_includes(asked, given, wide_in, narrow_in) for given in clause) for asked in candidate)
            for candidate in wide
        )
        for clause in narrow
    )


def field_includes(wide: FieldTest, narrow: FieldTest, wide_in: PolicyContext, narrow_in: PolicyContext) -> bool:
    """Whether what holds for `narrow` holds for `wide`: the same field, more values, and no more excluded."""
    name = _canonical(wide.name)
    if name != _canonical(narrow.name):
        return False
    includes = _INCLUDES.get(name) or (_same if not _is_strings(name) else string_includes)
    wide_values, wide_not = _meanings(name, wide.values, wide_in), _meanings(name, wide.not_values, wide_in)
    narrow_values, narrow_not = _meanings(name, narrow.values, narrow_in), _meanings(name, narrow.not_values, narrow_in)
    for more, fewer, excluded, still_excluded in zip(wide_values, narrow_values, wide_not, narrow_not, strict=True):
        if more and not (fewer and _all_in(fewer, more, includes)):
            return False
        if not _all_in(excluded, still_excluded, includes):
            return False
    return True


def _all_in(values: Iterable[str], among: Sequence[str], includes: Includes) -> bool:
    return all(value in among or any(includes(other, value) for other in among) for value in values)


def _canonical(name: str) -> str:
    """The name of a field, with header names in lower case: those do not differ by case."""
    return name.lower() if name.startswith("request.headers[") else name


def _meanings(name: str, values: Sequence[str], context: PolicyContext) -> tuple[Sequence[str], ...]:
    """The values as they are compared: at Envoy with the aliases of the trust domain, at ztunnel without."""
    if name in _PRINCIPALS:
        return values, expand_principals(values, context.mesh)
    if name in _TRUST_DOMAINS:
        return values, expand_trust_domains(values, context.mesh)
    if name in _ACCOUNTS:
        values = [value if "/" in value else f"{context.namespace}/{value}" for value in values]
    elif name == "hosts":
        values = [value.lower() for value in values]
    return values, values


def _is_strings(name: str) -> bool:
    return (
        name in _STRINGS
        or name in _PRINCIPALS
        or name in _TRUST_DOMAINS
        or name.startswith(("request.headers[", "request.auth.claims["))
        or name in ("request.auth.audiences", "request.auth.presenter")
    )


def _same(wide: str, narrow: str) -> bool:
    return wide == narrow


def string_includes(wide: str, narrow: str) -> bool:
    """Whether every string of one form is of another: presence, suffix, prefix, exact."""
    if wide == "*":
        return bool(narrow)
    if wide.startswith("*"):
        if narrow.startswith("*"):
            return narrow != "*" and narrow[1:].endswith(wide[1:])
        return not narrow.endswith("*") and narrow.endswith(wide[1:])  # a prefix says nothing of how a string ends
    if wide.endswith("*"):
        return not narrow.startswith("*") and narrow.removesuffix("*").startswith(wide[:-1])
    return wide == narrow


def _namespace_includes(wide: str, narrow: str) -> bool:
    # A star inside is any text at Envoy and a character at ztunnel: only what is simple in both is compared.
    if "*" in wide[1:-1] or "*" in narrow[1:-1] or wide.count("*") > 1 or narrow.count("*") > 1:
        return wide == narrow
    return string_includes(wide, narrow)


def _path_includes(wide: str, narrow: str) -> bool:
    if has_template(narrow):
        if has_template(wide):
            return wide == narrow
        literal = narrow[: narrow.index("{")]
        return wide == "*" or (not wide.startswith("*") and wide.endswith("*") and literal.startswith(wide[:-1]))
    if has_template(wide):
        return "*" not in (narrow[:1], narrow[-1:]) and path_matcher((wide,))(narrow)
    return string_includes(wide, narrow)


def _block_includes(wide: str, narrow: str) -> bool:
    outer, inner = parse_block(wide), parse_block(narrow)
    if outer is None or inner is None:
        return False
    version, network, host_bits = outer
    inner_version, inner_network, inner_bits = inner
    return version == inner_version and inner_bits <= host_bits and inner_network >> (host_bits - inner_bits) == network


def _port_includes(wide: str, narrow: str) -> bool:
    return parse_port(wide) == parse_port(narrow)


_INCLUDES: dict[str, Includes] = {
    "paths": _path_includes,
    **dict.fromkeys(_ADDRESSES, _block_includes),
    **dict.fromkeys(_PORTS, _port_includes),
    **dict.fromkeys(_NAMESPACES, _namespace_includes),
    **dict.fromkeys(_ACCOUNTS, _same),
}
