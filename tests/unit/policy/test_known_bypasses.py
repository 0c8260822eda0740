"""Ways in which policies of others were evaded, by their number: closed for DENY and for ALLOW."""

from __future__ import annotations

from typing import Any

import pytest

from app.policy.decision import Reason
from tests.support.policies import PEER, ask, policy, source, table, to, when

_ADMIN = to(paths=["/admin", "/admin/*"])
_PUBLIC = to(paths=["/public/*"])
_TEMPLATE = to(paths=["/admin/{**}"])
_ROLE = when("request.headers[x-role]", "admin")

# Number, what is forbidden, what is allowed, and a request that is forbidden and not allowed.
_BYPASSES: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ("CVE-2019-9900", _ROLE, _ROLE, {"headers": {"x-role": ("admin\x00",)}}),
    ("CVE-2019-9901", _ADMIN, _PUBLIC, {"path": "/public/../admin"}),
    ("CVE-2020-25017", _ROLE, when("request.headers[x-role]", "user"), {"headers": {"x-role": ("user", "admin")}}),
    ("CVE-2021-29492", _ADMIN, _PUBLIC, {"path": "/public/..%2Fadmin"}),
    ("CVE-2021-31920", _ADMIN, _PUBLIC, {"path": "//admin"}),
    ("CVE-2021-31920 backslash", _ADMIN, _PUBLIC, {"path": "/public/..%5Cadmin"}),
    ("CVE-2021-32777", _ROLE, when("request.headers[x-role]", "user"), {"headers": {"x-role": ("user,admin",)}}),
    ("CVE-2021-39155", to(hosts=["secret.com"]), to(notHosts=["secret.com"]), {"host": "Secret.COM"}),
    ("CVE-2021-39155 dot", to(hosts=["secret.com"]), to(notHosts=["secret.com"]), {"host": "secret.com."}),
    ("CVE-2021-39156", _ADMIN, to(paths=["/*"], notPaths=["/admin"]), {"path": "/admin#x"}),
    ("CVE-2025-46821", _TEMPLATE, to(paths=["/*"], notPaths=["/admin/{**}"]), {"path": "/admin/a*b"}),
    ("CVE-2026-26205", _ADMIN, _PUBLIC, {"path": "//public/admin"}),
    ("CVE-2026-26308", _ROLE, when("request.headers[x-role]", "user*"), {"headers": {"x-role": ("user, admin",)}}),
    ("CVE-2026-33494", _ADMIN, _PUBLIC, {"path": "/public/%2e%2e/admin"}),
    ("CVE-2026-73511", _ADMIN, _PUBLIC, {"path": "/admin;x/users"}),
    ("CVE-2026-73511 parent", _ADMIN, _PUBLIC, {"path": "/public/..;/admin"}),
    ("CVE-2026-73553", _ADMIN, _PUBLIC, {"path": "/admin;public"}),
    ("GHSA-9f29-v6mm-pw6w", _ADMIN, _PUBLIC, {"path": "//public//admin"}),
]


@pytest.mark.parametrize(("number", "forbidden", "allowed", "asked"), _BYPASSES, ids=[row[0] for row in _BYPASSES])
def test_a_known_bypass_is_closed(
    number: str, forbidden: dict[str, Any], allowed: dict[str, Any], asked: dict[str, Any]
) -> None:
    """What a DENY rule forbids is denied in disguise, and no ALLOW rule admits the disguise."""
    denied = ask(table(policy(forbidden, action="DENY")), **asked)
    admitted = ask(table(policy(allowed)), **asked)

    assert denied.reason in (Reason.DENY_RULE, Reason.TOO_AMBIGUOUS), number
    assert not admitted.allowed, number


@pytest.mark.parametrize(
    ("number", "asked"),
    [("CVE-2026-73547", {"method": "CONNECT", "path": ""}), ("CVE-2026-33186", {"path": "shop.Orders/List"})],
)
def test_a_request_without_a_path_is_refused(number: str, asked: dict[str, Any]) -> None:
    """No path, or one without its slash, is malformed: neither a crash nor a path that no rule knows."""
    assert Reason.MALFORMED is ask(table(policy({})), **asked).reason, number


@pytest.mark.parametrize(
    ("number", "rule", "principal"),
    [
        ("CVE-2026-39350", source(serviceAccounts=["shop/w.b"]), PEER),
        ("CVE-2026-39350 namespace", source(serviceAccounts=["sh.p/web"]), PEER),
        ("istio#59992", source(principals=["*/sa/w.b"]), PEER),
        ("istio#59992 namespace", source(namespaces=["sh.p"]), PEER),
        ("istio#59992 brackets", source(principals=["*/sa/[a-z]eb"]), PEER),
        ("istio/ztunnel#1901", source(principals=["spiffe://*"]), PEER),
    ],
)
def test_no_character_of_a_policy_is_a_pattern(number: str, rule: dict[str, Any], principal: str) -> None:
    """Values are literal but for the stars that the language knows."""
    assert not ask(table(policy(rule)), principal=principal).allowed, number


def test_cve_2023_27487_headers_of_envoy_are_not_believed() -> None:
    """The path comes from the request line, whatever x-envoy-original-path says."""
    rules = table(policy(_PUBLIC))

    assert not ask(rules, "/admin", headers={"x-envoy-original-path": ("/public/x",)}).allowed
