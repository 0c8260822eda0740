"""Laws of the lint: what it says of rules is true of the engine, for exact and hardened matching, wherever it decides."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.policy.decision import Reason
from app.policy.evaluate import decide
from app.policy.inclusion import is_layer_4, rule_includes
from app.policy.lint_places import Surroundings
from app.policy.lint_rules import never_matches
from app.policy.mesh import MeshConfig
from app.policy.request import Request
from app.policy.target import PointKind, Target
from tests.support.policies import HARDENED, ISTIO, SIDECAR, compiled, policy, request, source, table, to, when
from tests.support.views import view

_SETTINGS = settings(max_examples=60, deadline=None)
_MESHES = (ISTIO, HARDENED, MeshConfig(hardened=False, trust_domain="td", trust_domain_aliases=("old",)))
_ZTUNNEL = Target(PointKind.ZTUNNEL, "shop")

_VALUES: dict[str, list[str]] = {
    "paths": [
        "/",
        "/a",
        "/a/",
        "/a*",
        "/a/*",
        "/a/b",
        "*",
        "*b",
        "*/b",
        "**b",
        "/{*}",
        "/a/{*}",
        "/a/{**}",
        "/a/{*}/b",
    ],
    "hosts": ["a.com", "A.com", "a.com:80", "a.com:*", "a*", "*", "*.com", "*com", "b.a.com"],
    "methods": ["GET", "POST", "G*", "*T", "*", "P*"],
    "ports": ["80", "080", "8080"],
    "principals": ["*", "td/ns/shop/sa/web", "old/ns/shop/sa/web", "td/*", "td/ns/shop/*", "*/sa/web", "*web"],
    "namespaces": ["shop", "s*", "*p", "*", "s*p", "x", "shop/sa"],
    "serviceAccounts": ["web", "shop/web", "x/web"],
    "trustDomains": ["td", "old", "t*", "*d", "*", "cluster.local"],
    "ipBlocks": ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "0.0.0.0/0", "::/0"],
    "request.headers[x-a]": ["a", "b", "a*", "*b", "*", "a,b"],
    "request.headers[X-A]": ["a", "a*"],
    "request.auth.claims[a]": ["a", "ab", "a*", "*"],
}
_PATHS = [
    "/",
    "/a",
    "/a/",
    "/a/b",
    "/a/x/b",
    "/a//b",
    "/ab",
    "/b",
    "/x/b",
    "/a/..;/b",
    "/a%2fb",
    "/a;x",
    "//a",
    "/a/*b",
]
_HOSTS = ["a.com", "A.COM", "a.com:80", "b.a.com", "a.com.", "com", "xcom"]
_PEERS = [
    "",
    "spiffe://td/ns/shop/sa/web",
    "spiffe://old/ns/shop/sa/web",
    "spiffe://td/ns/x/sa/web",
    "spiffe://td/ns/shop/ns/x/sa/web",
    "spiffe://cluster.local/ns/sop/sa/xweb",
]
_REQUESTS: list[Request] = [
    *(request(path) for path in _PATHS),
    *(request(host=host) for host in _HOSTS),
    *(request(method=method) for method in ("POST", "PUT", "DELETE")),
    *(request(principal=peer) for peer in _PEERS),
    *(request(principal=peer, protocol="tcp") for peer in _PEERS),
    *(request(headers={"x-a": values}) for values in (("a",), ("a", "b"), ("a,b",), ("ab",), ("",), ("c",))),
    *(request(claims=claims) for claims in ({"a": "a"}, {"a": ["b", "ab"]}, {"a": ""}, {"a": 1})),
]


def _rule(name: str, values: list[str], not_values: list[str]) -> dict[str, Any]:
    if "." in name:
        return when(name, *values, not_values=tuple(not_values))
    negated = f"not{name[0].upper()}{name[1:]}"
    fields = {key: found for key, found in ((name, values), (negated, not_values)) if found}
    operation = name in ("paths", "hosts", "methods", "ports")
    return to(**fields) if operation else source(**fields)


@st.composite
def _rules(draw: st.DrawFn, names: list[str]) -> dict[str, Any]:
    rule: dict[str, Any] = {}
    for name in names:
        values = st.lists(st.sampled_from(_VALUES[name]), max_size=2, unique=True)
        found, excluded = draw(values), draw(values)
        if found or excluded:
            for part, entries in _rule(name, found, excluded).items():
                inner = {"from": "source", "to": "operation"}.get(part)
                if inner and part in rule:
                    rule[part][0][inner].update(entries[0][inner])
                else:
                    rule[part] = entries
    return rule


_NAMES = st.lists(st.sampled_from(sorted(_VALUES)), min_size=1, max_size=2, unique=True)


@st.composite
def _pairs(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two rules about the same, the second maybe about something more."""
    names = draw(_NAMES)
    more = draw(st.lists(st.sampled_from(sorted(_VALUES)), max_size=1))
    return draw(_rules(names)), draw(_rules(list(dict.fromkeys((*names, *more)))))


@given(_pairs(), st.sampled_from(_MESHES))
@_SETTINGS
def test_an_included_rule_matches_nothing_more(pair: tuple[dict[str, Any], dict[str, Any]], mesh: MeshConfig) -> None:
    """What the narrow rule denies the wide one denies, and what it allows that one allows."""
    _check_inclusion(*pair, mesh)


@pytest.mark.parametrize("name", sorted(_VALUES))
def test_inclusion_of_single_values_is_sound(name: str) -> None:
    """Each value of a field against each other, and against its exclusion."""
    for wide in _VALUES[name]:
        for narrow in _VALUES[name]:
            for mesh in _MESHES[1:]:
                _check_inclusion(_rule(name, [wide], []), _rule(name, [narrow], []), mesh)
            _check_inclusion(_rule(name, [], [wide]), _rule(name, [], [narrow]), HARDENED)


def _check_inclusion(wide: dict[str, Any], narrow: dict[str, Any], mesh: MeshConfig) -> None:
    (first,) = compiled([policy(wide)], mesh).values()
    (second,) = compiled([policy(narrow)], mesh).values()
    if not rule_includes(first.spec.rules[0], second.spec.rules[0], first.context, second.context):
        return
    targets = (SIDECAR, _ZTUNNEL) if is_layer_4(first.spec.rules[0]) else (SIDECAR,)
    for action, decides in (("DENY", False), ("ALLOW", True)):
        of_wide, of_narrow = (table(policy(rule, action=action), mesh=mesh) for rule in (wide, narrow))
        for target in targets:
            for asked in _REQUESTS:
                if decide(of_narrow, target, asked).allowed is decides:
                    assert decide(of_wide, target, asked).allowed is decides, (action, asked, target)


@given(_NAMES.flatmap(_rules), st.sampled_from(["ALLOW", "DENY"]))
@_SETTINGS
def test_a_rule_that_is_said_never_to_match_never_does(rule: dict[str, Any], action: str) -> None:
    """No HTTP request of the corpus is decided by it, however it is matched."""
    values = policy(rule, action=action)
    (found,) = compiled([values], HARDENED).values()
    if not list(never_matches(found, Surroundings.of(view(values), None))):
        return
    for mesh in (ISTIO, HARDENED):
        rules = table(values, mesh=mesh)
        for asked in _REQUESTS:
            if asked.protocol != "tcp":
                assert decide(rules, SIDECAR, asked).reason not in (Reason.DENY_RULE, Reason.ALLOW_RULE), asked
