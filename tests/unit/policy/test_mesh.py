"""The Mesh document."""

from __future__ import annotations

from typing import Any

import pytest

from app.errors import AppError
from app.policy.mesh import MeshConfig, PathNormalization, mesh_from_document
from tests.support.policies import document, policy


def _mesh(spec: dict[str, Any]) -> MeshConfig:
    value = {"apiVersion": "gatehouse.dev/v1", "kind": "Mesh", "metadata": {"name": "mesh"}, "spec": spec}
    return mesh_from_document(document(value))


def test_without_a_document_the_defaults_hold() -> None:
    """Hardened matching is on, paths are in BASE mode."""
    mesh = mesh_from_document(None)

    assert mesh == _mesh({})
    assert mesh.hardened
    assert PathNormalization.BASE is mesh.path_normalization


def test_every_field_is_read() -> None:
    """All fields of the document arrive in the value."""
    assert MeshConfig(
        trust_domain="example.org",
        trust_domain_aliases=("old.example.org",),
        root_namespace="mesh-root",
        path_normalization=PathNormalization.MERGE_SLASHES,
        hardened=False,
        multiple_custom_providers=True,
        selector_based_gateway_policy=False,
        own_providers=("ours",),
    ) == _mesh(
        {
            "trustDomain": "example.org",
            "trustDomainAliases": ["old.example.org"],
            "rootNamespace": "mesh-root",
            "pathNormalization": "MERGE_SLASHES",
            "hardened": False,
            "enableMultipleCustomProviders": True,
            "enableSelectorBasedGatewayPolicy": False,
            "ownProviders": ["ours"],
        }
    )


@pytest.mark.parametrize(
    ("spec", "pointer"),
    [
        ({"trustdomain": "x"}, "/spec/trustdomain"),
        ({"trustDomain": "UPPER"}, "/spec/trustDomain"),
        ({"trustDomain": 7}, "/spec/trustDomain"),
        ({"trustDomainAliases": "x"}, "/spec/trustDomainAliases"),
        ({"trustDomainAliases": ["ok", "not ok"]}, "/spec/trustDomainAliases/1"),
        ({"rootNamespace": ""}, "/spec/rootNamespace"),
        ({"pathNormalization": "ALL"}, "/spec/pathNormalization"),
        ({"pathNormalization": []}, "/spec/pathNormalization"),
        ({"hardened": "no"}, "/spec/hardened"),
        ({"ownProviders": [""]}, "/spec/ownProviders"),
    ],
)
def test_what_is_wrong_is_named(spec: dict[str, Any], pointer: str) -> None:
    """Unknown fields and wrong values are errors with a pointer."""
    with pytest.raises(AppError) as raised:
        _mesh(spec)

    assert [pointer] == [error.pointer for error in raised.value.errors]


def test_another_kind_is_no_mesh() -> None:
    """A policy is not taken for a mesh."""
    with pytest.raises(AppError):
        mesh_from_document(document(policy()))
