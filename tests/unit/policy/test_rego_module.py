"""RegoModule documents: the package is read, names are checked, and everything is bounded."""

from __future__ import annotations

from typing import Any

import pytest

from app.errors import AppError
from app.limits import PolicyLimits, RegoLimits
from app.policy.document import parse_document
from app.policy.document_values import read_value
from app.policy.rego_module import (
    RegoModule,
    data_documents,
    only_in_opa,
    otherwise_in_opa,
    refuse_clashes,
    roots,
    rule_path,
)
from app.policy.validate import Severity, validate

GOOD = "# Orders.\n\npackage shop.authz # the shop\n\ndefault allow := false\n"


def _document(spec: dict[str, Any], name: str = "authz") -> Any:
    value = {
        "apiVersion": "gatehouse.dev/v1",
        "kind": "RegoModule",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": spec,
    }
    return parse_document(value, PolicyLimits())


def _module(package: str, data: dict[str, Any], name: str = "m") -> RegoModule:
    found = read_value(_document({"rego": f"package {package}\n", "data": data}, name))
    assert isinstance(found, RegoModule)
    return found


def test_a_module_has_its_package_its_text_and_its_data() -> None:
    """Stored as written; the package is found behind comments."""
    module = read_value(_document({"rego": GOOD, "data": {"admins": ["ann"]}}))

    assert ("shop", "authz") == module.package
    assert (GOOD, {"admins": ["ann"]}, "shop/authz.rego") == (module.rego, module.data, module.file)


@pytest.mark.parametrize(
    ("spec", "pointer"),
    [
        ({}, "/spec/rego"),
        ({"rego": ""}, "/spec/rego"),
        ({"rego": 1}, "/spec/rego"),
        ({"rego": "allow := true\n"}, "/spec/rego"),
        ({"rego": "# nothing\n"}, "/spec/rego"),
        ({"rego": 'package shop["a/b"]\n'}, "/spec/rego"),
        ({"rego": "package shop..authz\n"}, "/spec/rego"),
        ({"rego": "package shop/../system\n"}, "/spec/rego"),
        ({"rego": "package system.authz\n"}, "/spec/rego"),
        ({"rego": "package data.system\n"}, "/spec/rego"),
        ({"rego": "package data.shop\n"}, "/spec/rego"),
        ({"rego": "package input\n"}, "/spec/rego"),
        ({"rego": "package gatehouse\n"}, "/spec/rego"),
        ({"rego": GOOD, "data": []}, "/spec/data"),
        ({"rego": GOOD, "text": "x"}, "/spec/text"),
        ({"rego": GOOD + "#" * RegoLimits().max_module_bytes}, "/spec/rego"),
    ],
)
def test_what_is_wrong_with_a_module_is_said_where_it_stands(spec: dict[str, Any], pointer: str) -> None:
    """Each with its pointer, before any engine sees it."""
    with pytest.raises(AppError) as caught:
        read_value(_document(spec))

    assert [pointer] == [error.pointer for error in caught.value.errors]


@pytest.mark.parametrize("separator", ["\r", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"])
def test_a_comment_ends_where_it_does_for_engines(separator: str) -> None:
    """At a line feed, and at nothing else that ends lines elsewhere: a package is not claimed behind another name."""
    with pytest.raises(AppError) as caught:
        read_value(_document({"rego": f"# {separator}package shop.authz\npackage system.authz\nallow := true\n"}))
    module = read_value(_document({"rego": f"# {separator}package shop.authz\r\npackage bank.authz\r\n"}))

    assert ["the package system is reserved; choose another"] == [error.message for error in caught.value.errors]
    assert ("bank", "authz") == module.package


@pytest.mark.parametrize("text", ["shop/authz/allow", "shop.authz.allow", "data.shop.authz.allow"])
def test_a_rule_is_named_in_each_usual_way(text: str) -> None:
    """As OPA's path, and as a Rego reference."""
    assert ("shop", "authz", "allow") == rule_path(text)


@pytest.mark.parametrize(
    "text",
    ["", "allow", "shop/../system/main", "shop/authz%2Fallow", "shop//allow", "/shop/allow", "shop/allow?x=1", "shop/al low",
     "system/authz/allow", "shop/allow#", "shop/\nallow", "shop/é", "a/" * 20 + "b", "data.gatehouse.policies"],
)  # fmt: skip
def test_cve_2025_46569_a_path_that_leads_elsewhere_is_refused(text: str) -> None:
    """Segments are identifiers; nothing can be appended to them, and OPA's own documents are not reached."""
    with pytest.raises(AppError):
        rule_path(text)


def test_functions_of_opa_alone_are_a_warning_with_their_line() -> None:
    """Embedded they are undefined, and `not` would make true of that."""
    text = (
        GOOD
        + 'allow if not net.cidr_contains("10.0.0.0/8", input.ip)\nx := http.send ({})\nr if regex.match("(?i)a", x)\n'
    )
    found = validate(_document({"rego": text}), PolicyLimits())

    expected = [(6, "net.cidr_contains"), (7, "http.send"), (8, "a flag in a regular expression")]
    assert expected == only_in_opa(text)
    assert [Severity.WARNING] * 3 == [finding.severity for finding in found]
    assert found[0].message.startswith("line 6: net.cidr_contains")
    assert [] == only_in_opa("x := internet.of(things)\ny := io.jwt.decode(t)\nz := regex.match(`(?:a|b)`, y)\n")


def test_functions_that_differ_are_a_warning_with_their_line() -> None:
    """rego-cpp says that the largest of 50 and 1000 is 50."""
    text = GOOD + "limit := max([50, 1000])\nmaximal(x) := x\ny := lib.max(3)\nz := urlquery.decode(input.q)\n"

    assert [(6, "max"), (9, "urlquery.decode")] == otherwise_in_opa(text)
    assert ["line 6", "line 9"] == [
        finding.message[:6] for finding in validate(_document({"rego": text}), PolicyLimits())
    ]


def test_data_stands_at_the_package_and_clashes_are_refused() -> None:
    """Two modules may share a package, not a name in it; and what one adds is not added to the other's document."""
    above, below = _module("shop", {"authz": {"a": 1}}, "x"), _module("shop.authz", {"b": 2}, "y")

    assert {"shop": {"authz": {"a": 1, "b": 2}}} == data_documents([above, below])
    assert {"authz": {"a": 1}} == above.data
    for clashing in (_module("shop.authz", {"a": 2}), _module("shop.authz.a", {"c": 1})):
        with pytest.raises(AppError, match="stands where other data is"):
            data_documents([above, below, clashing])


@pytest.mark.parametrize(
    ("data", "package", "rule"),
    [
        ({"authz": {"allow": True}}, "shop.authz", "default allow := false"),
        ({"authz": {"allow": True}}, "shop.authz", "allow if input.admin"),
        ({"authz": {"allow": {"x": 1}}}, "shop.authz", "allow contains 1"),
        ({"authz": {"allow": True}}, "shop.authz", "allow.deep := 1"),
        ({"authz": {"allow": True}}, "shop", "authz.allow := false"),
        ({"authz": True}, "shop.authz", "allow := false"),
        ({"authz": True}, "shop", "authz := false"),
    ],
)
def test_data_where_a_rule_stands_is_refused(data: dict[str, Any], package: str, rule: str) -> None:
    """The embedded engine would take it in place of a rule that is undefined, and OPA refuses the whole bundle."""
    rules = read_value(_document({"rego": f"package {package}\n\n{rule}\n"}, "rules"))
    with pytest.raises(AppError, match="data of RegoModule shop/m stands where RegoModule shop/rules has"):
        refuse_clashes([_module("shop", data), rules])


def test_data_below_a_rule_is_refused_too() -> None:
    """Where the module of the data has the longer package."""
    rules = read_value(_document({"rego": "package shop\n\nauthz := 1\n"}, "rules"))
    with pytest.raises(AppError, match="data of RegoModule shop/m stands where RegoModule shop/rules has shop"):
        refuse_clashes([rules, _module("shop.authz.deep", {"x": 1})])


def test_data_beside_rules_is_what_it_is_for() -> None:
    """Also under a name that the body of a rule gives to a value of its own: nothing is raised."""
    text = "package shop\n\nallow if {\n  limits := data.shop.limits\n  limits.a > 1\n}\n\nlimits_of(x) := 1\nkeys.b := 2\n"
    rules = read_value(_document({"rego": text, "data": {"limits": {"a": 1}, "keys": {"a": 1}}}))

    refuse_clashes([rules])


def test_doubts_about_one_module_are_bounded() -> None:
    """A module that is nothing but such calls is no flood of warnings."""
    calls = validate(_document({"rego": GOOD + "max(\n" * 20_000}), PolicyLimits())

    assert RegoLimits().max_findings == len(calls)


def test_roots_are_the_packages_without_those_below_others() -> None:
    """OPA refuses a bundle whose roots overlap."""
    modules = [_module(package, {}) for package in ("shop.authz", "shop.authz.lib", "shopping", "bank", "shop.authz")]

    assert ["bank", "shop/authz", "shopping"] == roots(modules)
