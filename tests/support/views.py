"""A policy view of a few documents and services, as the authority or a command builds it."""

from __future__ import annotations

from typing import Any

from app.policy.policy_view import PolicyView
from tests.support.policies import LIMITS, document


def view(*values: dict[str, Any], services: tuple[tuple[str, str, str], ...] = ()) -> PolicyView:
    """A view of documents; services are (registry, namespace, name)."""
    documents = {document(value).key: value for value in values}
    items = {
        f"{registry}/{namespace}/{name}": {
            "namespace": namespace,
            "name": name,
            "registry": registry,
            "hosts": [],
            "addresses": [],
            "ports": [],
            "labels": {},
        }
        for registry, namespace, name in services
    }
    return PolicyView.empty(LIMITS).changed(documents, items, LIMITS)


def mesh_document(**spec: Any) -> dict[str, Any]:
    """A Mesh document."""
    return {"apiVersion": "gatehouse.dev/v1", "kind": "Mesh", "metadata": {"name": "mesh"}, "spec": spec}


def point_document(name: str, **spec: Any) -> dict[str, Any]:
    """An EnforcementPoint in namespace shop."""
    metadata = {"name": name, "namespace": "shop"}
    base = {"caller": {"listener": name}}
    return {
        "apiVersion": "gatehouse.dev/v1",
        "kind": "EnforcementPoint",
        "metadata": metadata,
        "spec": {**base, **spec},
    }
