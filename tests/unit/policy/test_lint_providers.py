"""CUSTOM policies and Provider documents, looked at together."""

from __future__ import annotations

from typing import Any

import pytest

from app.limits import PolicyLimits
from app.policy.compile import compile_policy
from app.policy.document import parse_document
from app.policy.lint_providers import own_provider_doubts, provider_doubts
from app.policy.mesh import MeshConfig
from app.policy.validate import validate
from tests.support.snapshots import policy

MESH = MeshConfig(own_providers=("gatehouse",))


def _pointers(**spec: Any) -> list[str]:
    document = parse_document(policy("p", rules=[{}], **spec), PolicyLimits())
    return [finding.pointer for finding in provider_doubts(compile_policy(document, MESH), {"opa"}, MESH)]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"action": "CUSTOM", "provider": {"name": "nobody"}}, ["/spec/provider/name"]),
        ({"action": "CUSTOM", "provider": {"name": "opa"}}, []),
        ({"action": "CUSTOM", "provider": {"name": "gatehouse"}}, []),
        ({"action": "DENY"}, []),
    ],
)
def test_a_provider_that_nobody_describes_is_doubted(spec: dict[str, Any], expected: list[str]) -> None:
    """Its policy denies whatever it matches."""
    assert expected == _pointers(**spec)


def test_a_provider_document_with_our_own_name_is_doubted() -> None:
    """It would never be asked."""
    assert ["/metadata/name"] == [finding.pointer for finding in own_provider_doubts("gatehouse", MESH)]
    assert [] == list(own_provider_doubts("opa", MESH))


def test_a_custom_policy_alone_has_no_doubt() -> None:
    """Providers are asked now; whether there is one is a question to the whole set."""
    value = policy("p", action="CUSTOM", provider={"name": "opa"}, rules=[{}], selector={"matchLabels": {"a": "b"}})
    assert [] == [
        finding
        for finding in validate(parse_document(value, PolicyLimits()), PolicyLimits())
        if "prov" in finding.pointer
    ]
