"""Ways in which policies of others were evaded, by their number: closed for DENY and for ALLOW, negated too.

Each row says also what Istio's exact matching makes of the same request, so that the difference of hardened matching is on
record where it is: (does the DENY rule still deny, does the ALLOW rule admit).
"""

from __future__ import annotations

from typing import Any

import pytest

from app.policy.decision import Reason
from app.policy.mesh import PathNormalization
from app.policy.paths import normalize
from app.policy.target import PointKind, Target
from tests.support.policies import ISTIO, PEER, WAYPOINT, ask, policy, source, table, to, when

_Fields = tuple[str, list[str], list[str]]  # the field, what is forbidden, what is harmless

_PATH: _Fields = ("paths", ["/admin", "/admin/*"], ["/public/*"])
_TEMPLATE: _Fields = ("paths", ["/admin/{**}"], ["/public/{**}"])
_SEGMENT: _Fields = ("paths", ["/admin/{*}"], ["/public/{*}"])
_HOST: _Fields = ("hosts", ["secret.com"], ["open.com"])
_ROLE: _Fields = ("x-role", ["admin"], ["user*"])

# Number, field, the request in disguise, and what exact matching does: (DENY denies, ALLOW admits).
_BYPASSES: list[tuple[str, _Fields, dict[str, Any], tuple[bool, bool]]] = [
    ("CVE-2019-9900", _ROLE, {"headers": {"x-role": ("user\x00admin",)}}, (False, True)),
    ("CVE-2019-9900 after", _ROLE, {"headers": {"x-role": ("admin\x00",)}}, (False, False)),
    ("CVE-2019-9901", _PATH, {"path": "/public/../admin"}, (False, True)),
    ("CVE-2019-9901 encoded", _PATH, {"path": "/public/%2E%2e/admin"}, (False, True)),
    ("CVE-2019-9901 dot", _PATH, {"path": "/./admin"}, (False, False)),
    ("CVE-2020-25017", _ROLE, {"headers": {"x-role": ("user", "admin")}}, (True, True)),
    ("CVE-2020-25017 first", _ROLE, {"headers": {"x-role": ("admin", "user")}}, (True, True)),
    ("CVE-2021-29492", _PATH, {"path": "/public/..%2Fadmin"}, (False, True)),
    ("CVE-2021-29492 backslash", _PATH, {"path": "/public/..%5cadmin"}, (False, True)),
    ("CVE-2021-31920", _PATH, {"path": "//admin"}, (False, False)),
    ("CVE-2021-31920 inside", _PATH, {"path": "/public//../../admin"}, (False, True)),
    ("CVE-2021-31920 backslash", _PATH, {"path": "/public/..%5Cadmin"}, (False, True)),
    ("CVE-2021-32777", _ROLE, {"headers": {"x-role": ("user,admin",)}}, (False, True)),
    ("CVE-2021-32779", _PATH, {"path": "/admin#/../public/x"}, (True, False)),
    ("CVE-2021-39155", _HOST, {"host": "Secret.COM"}, (True, False)),
    ("CVE-2021-39155 dot", _HOST, {"host": "secret.com."}, (False, False)),
    ("CVE-2021-39155 port", _HOST, {"host": "SECRET.com:8443"}, (False, False)),
    ("CVE-2021-39156", _PATH, {"path": "/admin#x"}, (True, False)),
    ("CVE-2021-39156 query", _PATH, {"path": "/admin?x#y"}, (True, False)),
    ("CVE-2022-21679", _HOST, {"host": "secret.com:80"}, (False, False)),
    ("CVE-2025-46821", _TEMPLATE, {"path": "/admin/a*b"}, (True, False)),
    ("CVE-2025-46821 segment", _SEGMENT, {"path": "/admin/*"}, (True, False)),
    ("CVE-2025-46821 others", _SEGMENT, {"path": '/admin/[a]|"^`{}'}, (True, False)),
    ("CVE-2026-26205", _PATH, {"path": "//public/admin"}, (False, False)),
    ("CVE-2026-26308", _ROLE, {"headers": {"x-role": ("user, admin",)}}, (False, True)),
    ("CVE-2026-26308 reversed", _ROLE, {"headers": {"x-role": ("admin ,user",)}}, (False, False)),
    ("CVE-2026-26308 underscore", _ROLE, {"headers": {"x-role": ("user",), "x_role": ("admin",)}}, (False, True)),
    ("CVE-2026-33494", _PATH, {"path": "/public/%2e%2e/admin"}, (False, True)),
    ("CVE-2026-33494 twice", _PATH, {"path": "/public/%252e%252e/admin"}, (False, True)),
    ("CVE-2026-73511", _PATH, {"path": "/admin;x/users"}, (False, False)),
    ("CVE-2026-73511 parent", _PATH, {"path": "/public/..;/admin"}, (False, True)),
    ("CVE-2026-73511 parent named", _PATH, {"path": "/public/..;a=b/admin"}, (False, True)),
    ("CVE-2026-73553", _PATH, {"path": "/admin;public"}, (False, False)),
    ("CVE-2026-73552", _PATH, {"path": "/%ef%bc%8f../admin"}, (False, False)),
    ("GHSA-9f29-v6mm-pw6w", _PATH, {"path": "//public//admin"}, (False, False)),
    ("GHSA-9f29-v6mm-pw6w three", _PATH, {"path": "///admin"}, (False, False)),
]


def _rule(field: str, values: list[str], *, negated: bool) -> dict[str, Any]:
    if field.startswith("x-"):
        key = f"request.headers[{field}]"
        return when(key, not_values=tuple(values)) if negated else when(key, *values)
    return to(**{f"not{field.capitalize()}" if negated else field: values})


@pytest.mark.parametrize(("number", "fields", "asked", "exact"), _BYPASSES, ids=[row[0] for row in _BYPASSES])
def test_a_known_bypass_is_closed(
    number: str, fields: _Fields, asked: dict[str, Any], exact: tuple[bool, bool]
) -> None:
    """What a DENY rule forbids is denied in disguise, and no ALLOW rule admits the disguise, however it is worded."""
    field, forbidden, harmless = fields
    denying = (_rule(field, forbidden, negated=False), _rule(field, harmless, negated=True))
    admitting = (_rule(field, harmless, negated=False), _rule(field, forbidden, negated=True))

    for rule in denying:
        assert ask(table(policy(rule, action="DENY")), **asked).reason in _REFUSALS, (number, rule)
    for rule in admitting:
        assert not ask(table(policy(rule)), **asked).allowed, (number, rule)
    assert exact == (
        not ask(table(policy(denying[0], action="DENY"), mesh=ISTIO), **asked).allowed,
        ask(table(policy(admitting[0]), mesh=ISTIO), **asked).allowed,
    )


_REFUSALS = (Reason.DENY_RULE, Reason.TOO_AMBIGUOUS, Reason.MALFORMED)


@pytest.mark.parametrize(
    ("number", "asked"),
    [
        ("CVE-2026-73547", {"method": "CONNECT", "path": ""}),
        ("CVE-2026-73547 GET", {"path": ""}),
        ("CVE-2026-33186", {"path": "shop.Orders/List"}),
        ("CVE-2026-33186 absolute", {"path": "http://orders/admin"}),
        ("CVE-2019-9900 path", {"path": "/admin\x00"}),
        ("CVE-2019-9901 NUL", {"path": "/admin%00"}),
    ],
)
def test_a_request_without_a_proper_path_is_refused(number: str, asked: dict[str, Any]) -> None:
    """No path, one without its slash, one with a NUL: malformed, neither a crash nor a path that no rule knows."""
    for action in ("ALLOW", "DENY"):
        assert Reason.MALFORMED is ask(table(policy({}, action=action)), **asked).reason, number


@pytest.mark.parametrize(
    ("number", "rule", "principal"),
    [
        ("CVE-2026-39350", source(serviceAccounts=["shop/w.b"]), PEER),
        ("CVE-2026-39350 namespace", source(serviceAccounts=["sh.p/web"]), PEER),
        ("CVE-2026-39350 plus", source(serviceAccounts=["shop/web+"]), PEER + "b"),
        ("istio#59992", source(principals=["*/sa/w.b"]), PEER),
        ("istio#59992 namespace", source(namespaces=["sh.p"]), PEER),
        ("istio#59992 namespace star", source(namespaces=["s.*"]), PEER),
        ("istio#59992 brackets", source(principals=["*/sa/[a-z]eb"]), PEER),
        ("istio/ztunnel#1901", source(principals=["spiffe://*"]), PEER),
        ("CVE-2026-47778", source(principals=["cluster.local/ns/shop/sa/web"]), PEER + "\x00.evil"),
        ("CVE-2025-66220", source(serviceAccounts=["shop/web"]), "DNS:x, " + PEER),
    ],
)
def test_no_character_of_a_policy_is_a_pattern(number: str, rule: dict[str, Any], principal: str) -> None:
    """Values are literal but for the stars that the language knows: no match for ALLOW, none for DENY."""
    assert not ask(table(policy(rule)), principal=principal).allowed, number
    assert ask(table(policy(rule, action="DENY")), principal=principal).allowed, number


@pytest.mark.parametrize(
    ("number", "headers"),
    [
        ("CVE-2023-27487", {"x-envoy-original-path": ("/public/x",)}),
        ("CVE-2024-45806", {"x-envoy-internal": ("true",), "x-envoy-expected-rq-timeout-ms": ("1",)}),
        ("CVE-2023-35944", {":scheme": ("hTTpS",), "x-forwarded-proto": ("hTTpS",)}),
        ("ISTIO-SECURITY-2021-002", {"x-forwarded-port": ("443",), "x-original-url": ("/public/x",)}),
    ],
)
def test_headers_that_proxies_set_are_not_believed(number: str, headers: dict[str, tuple[str, ...]]) -> None:
    """Path and port come from the request line and the connection, whatever such a header says."""
    assert not ask(table(policy(to(paths=["/public/*"]))), "/admin", headers=headers).allowed, number
    assert not ask(table(policy(to(paths=["/admin"]), action="DENY")), "/admin", headers=headers).allowed, number
    assert not ask(table(policy(to(ports=["443"]))), "/admin", headers=headers).allowed, number


def test_cve_2021_21378_claims_hold_only_for_a_verified_token() -> None:
    """A token that nobody verified gives no claims, so nothing that asks for some is allowed by it."""
    bearer = {"authorization": ("Bearer eyJhbGciOiJub25lIn0.eyJpc3MiOiJhIn0.",)}
    for rule in (source(requestPrincipals=["*"]), when("request.auth.claims[iss]", "a")):
        assert not ask(table(policy(rule)), headers=bearer, claims=None).allowed
    required = table(policy(source(notRequestPrincipals=["*"]), action="DENY"))
    assert not ask(required, headers=bearer, claims=None).allowed


@pytest.mark.parametrize("number", ["CVE-2023-27488", "CVE-2024-23324"])
def test_bytes_that_are_no_text_are_a_value_like_another(number: str) -> None:
    """Envoy replaces what is not UTF-8 by `!`: such a header matches no exact value, and the answer is a decision."""
    headers = {"x-role": ("adm!n",), "x-\udcff": ("\udcff",)}
    rules = table(policy(when("request.headers[x-role]", "admin")))

    assert Reason.NO_RULE_MATCHED is ask(rules, headers=headers).reason, number
    absent_or_other = table(policy(when("request.headers[x-role]", not_values=("*",)), action="ALLOW"))
    assert not ask(absent_or_other, headers=headers).allowed, number


def test_istio_security_2021_002_ports_are_those_of_the_enforcing_proxy() -> None:
    """A waypoint sees the service's port, a sidecar the workload's; the rule compares what its proxy sees."""
    rules = table(policy(to(ports=["8080"]), targetRefs=[{"kind": "Service", "name": "orders"}]))

    assert ask(rules, target=WAYPOINT).allowed
    assert not ask(table(policy(to(ports=["443"]))), headers={":authority": ("x:443",)}, host="x:443").allowed


def test_istio_security_2021_004_without_an_identity_only_negations_hold() -> None:
    """Without mutual TLS `not*` holds and nothing else does; `DENY notPrincipals: ["*"]` is how to demand it."""
    assert not ask(table(policy(source(namespaces=["shop"]))), principal="").allowed
    assert ask(table(policy(source(notNamespaces=["bank"]))), principal="").allowed
    for target in (None, Target(PointKind.ZTUNNEL, "shop")):
        demanded = table(policy(source(notPrincipals=["*"]), action="DENY"))
        where = {} if target is None else {"target": target}
        assert not ask(demanded, principal="", **where).allowed
        assert ask(demanded, **where).allowed


@pytest.mark.parametrize(
    ("mode", "path"),
    [
        (PathNormalization.BASE, "/public/../admin"),
        (PathNormalization.MERGE_SLASHES, "//admin"),
        (PathNormalization.DECODE_AND_MERGE_SLASHES, "/public/..%2fadmin"),
        (PathNormalization.DECODE_AND_MERGE_SLASHES, "/public%5c..%5Cadmin"),
    ],
)
def test_what_a_mode_of_istio_closes_is_closed_there_too(mode: PathNormalization, path: str) -> None:
    """CVE-2019-9901 and CVE-2021-31920: with the mode that was made for it, exact matching is not evaded either."""
    normalized = normalize(path, mode)

    assert normalized is not None
    assert not ask(table(policy(to(paths=["/admin"]), action="DENY"), mesh=ISTIO), normalized).allowed
    assert not ask(table(policy(to(paths=["/public/*"])), mesh=ISTIO), normalized).allowed
