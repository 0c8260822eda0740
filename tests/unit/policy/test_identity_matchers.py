"""Principals, namespaces, service accounts, trust domains, aliases; Envoy and ztunnel."""

from __future__ import annotations

import pytest

from app.policy.identity_matchers import (
    expand_principals,
    expand_trust_domains,
    namespace_matcher,
    principal_matcher,
    service_account_matcher,
    trust_domain_matcher,
    ztunnel_matcher,
)
from app.policy.mesh import MeshConfig

_ID = "spiffe://cluster.local/ns/shop/sa/web"


@pytest.mark.parametrize(
    ("value", "principal", "expected"),
    [
        ("cluster.local/ns/shop/sa/web", _ID, True),
        ("cluster.local/ns/shop/sa/we", _ID, False),
        ("spiffe://cluster.local/ns/shop/sa/web", _ID, False),
        ("cluster.local/*", _ID, True),
        ("cluster.local*", "spiffe://cluster.local.evil/ns/a/sa/b", True),
        ("*/sa/web", _ID, True),
        ("*web", "web", False),
        ("*/", "spiffe://", False),
        ("*", _ID, True),
        ("*", "", False),
        ("cluster.local/ns/shop/sa/web", "", False),
        ("*a", "", False),
    ],
)
def test_principals(value: str, principal: str, expected: bool) -> None:
    """Values have no scheme; nothing matches a peer that is not authenticated."""
    assert expected is principal_matcher([value])(principal)
    assert expected is principal_matcher([value, "never"])(principal)


@pytest.mark.parametrize(
    ("value", "principal", "expected"),
    [
        ("shop", _ID, True),
        ("sho", _ID, False),
        ("hop", _ID, False),
        ("s*p", _ID, True),
        ("*", _ID, True),
        ("a.b", "spiffe://td/ns/axb/sa/c", False),
        ("*/sa", _ID, True),
        ("*/sax", _ID, False),
        ("s**p", _ID, True),
        ("p*s", _ID, False),
        ("shop", "", False),
        ("b", "spiffe://td/ns/a/ns/b/sa/c", True),
    ],
)
def test_namespaces(value: str, principal: str, expected: bool) -> None:
    """A star anywhere means any text; everything else is literal (istio#59992)."""
    assert expected is namespace_matcher([value])(principal)
    assert expected is namespace_matcher([value, "never"])(principal)


@pytest.mark.parametrize(
    ("value", "principal", "expected"),
    [
        ("shop/web", _ID, True),
        ("web", _ID, True),
        ("other/web", _ID, False),
        ("shop/we", _ID, False),
        ("shop/web", _ID + "x", False),
        ("shop/web", _ID + "/k/v", True),
        ("shop/web", _ID + "/", False),
        ("shop/web", "spiffe://td/k/v/ns/shop/k/v/sa/web", True),
        ("shop/web", "spiffe://td/ns/shop/xsa/web", False),
        ("shop/web", "spiffe:///ns/shop/sa/web", False),
        ("shop/web", "cluster.local/ns/shop/sa/web", False),
        ("sh.p/web", _ID, False),
        ("shop/web", "spiffe://td/ns/shop/sa/api/ns/shop/sa/web", True),
        ("shop/web", "", False),
    ],
)
def test_service_accounts(value: str, principal: str, expected: bool) -> None:
    """Literal, with the policy's namespace as the default; other attributes may stand around (CVE-2026-39350)."""
    assert expected is service_account_matcher([value], "shop")(principal)


@pytest.mark.parametrize(
    ("value", "principal", "expected"),
    [
        ("cluster.local", _ID, True),
        ("cluster", _ID, False),
        ("cluster.*", _ID, True),
        ("*.local", _ID, True),
        ("*shop", _ID, False),
        ("*", _ID, True),
        ("*", "", False),
        ("td", "spiffe://td", False),
        ("td", "td/ns/a", False),
    ],
)
def test_trust_domains(value: str, principal: str, expected: bool) -> None:
    """A star stays inside the trust domain."""
    assert expected is trust_domain_matcher([value])(principal)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("td1/ns/a/sa/b", ["td1/ns/a/sa/b", "td2/ns/a/sa/b", "x-td1/ns/a/sa/b"]),
        ("td2/ns/a/sa/b", ["td1/ns/a/sa/b", "td2/ns/a/sa/b", "x-td1/ns/a/sa/b"]),
        ("cluster.local/ns/a/sa/b", ["td1/ns/a/sa/b", "td2/ns/a/sa/b", "x-td1/ns/a/sa/b"]),
        ("other/ns/a/sa/b", ["other/ns/a/sa/b"]),
        ("*/ns/a/sa/b", ["*/ns/a/sa/b"]),
        ("*-td1/ns/a/sa/b", ["td1/ns/a/sa/b", "td2/ns/a/sa/b", "*-td1/ns/a/sa/b"]),
        ("td1/ns/a/*", ["td1/ns/a/*"]),
        ("td1", ["td1"]),
    ],
)
def test_aliases(value: str, expected: list[str]) -> None:
    """Only values of the full form are expanded, and each result is there once."""
    mesh = MeshConfig(trust_domain="td1", trust_domain_aliases=("td2", "x-td1"))

    assert expected == expand_principals([value], mesh)


def test_trust_domain_values_are_expanded() -> None:
    """One of the mesh's trust domains stands for all of them."""
    mesh = MeshConfig(trust_domain="td1", trust_domain_aliases=("td2",))

    assert ["x", "td1", "td2"] == expand_trust_domains(["x", "td2", "td1"], mesh)


@pytest.mark.parametrize(
    ("field", "value", "principal", "expected"),
    [
        ("namespaces", "shop", _ID, True),
        ("namespaces", "s*p", _ID, False),
        ("namespaces", "s*", _ID, True),
        ("namespaces", "shop", _ID + "/k/v", False),
        ("principals", "cluster.local/ns/shop/sa/web", _ID, True),
        ("principals", "*", _ID + "/k/v", False),
        ("principals", "*", "", False),
        ("serviceAccounts", "web", _ID, True),
        ("serviceAccounts", "shop/web", _ID, True),
        ("serviceAccounts", "shop/web", _ID + "/k/v", False),
    ],
)
def test_ztunnel_reads_the_parts(field: str, value: str, principal: str, expected: bool) -> None:
    """Ztunnel knows identities of exactly three parts; other text is no identity."""
    assert expected is ztunnel_matcher(field, [value], "shop")(principal)
