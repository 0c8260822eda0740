"""Providers that can only deny are found before anybody is denied."""

from __future__ import annotations

from typing import Any

import pytest

from app.policy.finding_codes import Code
from app.policy.lint import lint
from tests.support.rego import module_document
from tests.support.views import view

GOOD = module_document("authz", "package shop.authz\n\nallow := true\n")
SORTS = module_document("sorts", "package shop.sorts\n\nallow := sort([10, 9])[0] == 9\n")


def _provider(**rego: Any) -> dict[str, Any]:
    spec = {"rego": {"engine": "embedded", "path": "shop/authz/allow", **rego}}
    return {"apiVersion": "gatehouse.dev/v1", "kind": "Provider", "metadata": {"name": "authz"}, "spec": spec}


def _found(*documents: dict[str, Any]) -> list[tuple[str, str, str]]:
    found = [each for each in lint(view(*documents)) if each.code == Code.RULE_UNKNOWN]
    return [(each.document, each.pointer, each.message.partition(": everything")[0]) for each in found]


@pytest.mark.parametrize(
    "documents",
    [
        (GOOD, _provider()),
        (GOOD, SORTS, _provider(modules=["shop/authz"])),
        (GOOD, _provider(path="shop/authz/decision/allowed")),
        (_provider(engine="opa", opa={"url": "http://127.0.0.1:8181"}),),
    ],
    ids=["all modules", "by name", "below a rule", "a server's own modules"],
)
def test_a_provider_that_can_answer_is_no_matter(documents: tuple[dict[str, Any], ...]) -> None:
    """What a rule says is not known here, nor what a server has."""
    assert [] == _found(*documents)


@pytest.mark.parametrize(
    ("documents", "pointer", "message"),
    [
        ((_provider(),), "/spec/rego", "there is no RegoModule that the provider selects in the set"),
        ((GOOD, _provider(modules=["gone"])), "/spec/rego/modules", "there is no RegoModule gone in the set"),
        (
            (GOOD, _provider(path="shop/other/allow")),
            "/spec/rego/path",
            "no module that it selects has a package of the rule shop/other/allow",
        ),
        ((GOOD, SORTS, _provider()), "/spec/rego", "RegoModule shop/sorts, line 3: the embedded sort is not OPA's"),
    ],
    ids=["no module", "no such module", "no such package", "a module that is refused"],
)
def test_a_provider_that_can_only_deny_is_found(
    documents: tuple[dict[str, Any], ...], pointer: str, message: str
) -> None:
    """With the reason that its denials will have."""
    assert [("Provider//authz", pointer, message)] == _found(*documents)


@pytest.mark.parametrize(
    ("rego", "pointers"),
    [
        ({}, ["/spec/rego"]),
        ({"modules": ["authz"]}, ["/spec/rego/modules"]),
        ({"modules": ["shop/authz", "evil/authz"]}, []),
        ({"modules": ["shop/authz"]}, []),
    ],
)
def test_a_rule_that_several_namespaces_can_make_true_is_found(rego: dict[str, Any], pointers: list[str]) -> None:
    """Unless the provider names each of the modules with its namespace."""
    theirs = module_document("authz", "package shop.authz\n\nallow := true\n", namespace="evil")
    elsewhere = module_document("other", "package evil.authz\n\nallow := true\n", namespace="evil")
    found = lint(view(GOOD, theirs, elsewhere, _provider(**rego)))

    assert pointers == [each.pointer for each in found if each.code == Code.SEVERAL_AUTHORS]
    assert not [each for each in lint(view(GOOD, elsewhere, _provider())) if each.code == Code.SEVERAL_AUTHORS]
