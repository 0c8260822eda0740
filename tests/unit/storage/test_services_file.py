"""Services from a file."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from app.limits import Limits
from app.storage.services_file import FileServices

GOOD = """
services:
- {namespace: shop, name: orders, addresses: [10.96.0.10], ports: [8080]}
- {namespace: shop, name: bank, registry: External, addresses: [192.0.2.7]}
workloads:
- {namespace: shop, name: cart-1, serviceAccount: cart, node: node-a}
"""
KUBERNETES = """
apiVersion: v1
kind: Service
metadata: {name: orders, namespace: shop}
spec: {clusterIPs: [10.96.0.10], ports: [{port: 8080}]}
"""


def keys(source: FileServices) -> dict[str, list[str]]:
    return {registry: sorted(known.services) for registry, known in source.known().items()}


@pytest.mark.parametrize("text", [GOOD, KUBERNETES])
async def test_a_file_is_read_in_both_forms_and_again_when_it_changes(tmp_path: Path, text: str) -> None:
    """By registry, without a version; nodes and pods in it are not looked at."""
    file = tmp_path / "inventory.yaml"
    file.write_text(text)
    source = FileServices(file, Limits())
    assert {} == dict(source.known())
    await source.refresh()
    async with asyncio.timeout(5):
        await source.changed()

    assert ["Kubernetes/shop/orders"] == keys(source)["Kubernetes"]
    assert None is source.known()["Kubernetes"].version
    assert (True, "") == (source.describe().is_fresh, source.describe().problem)
    file.write_text(text.replace("name: orders", "name: basket"))
    await source.refresh()
    assert ["Kubernetes/shop/basket"] == keys(source)["Kubernetes"]


@pytest.mark.parametrize(
    ("text", "says"),
    [("services: [", "not YAML"), ("services:\n- {name: x}\n", "/services/0"), (None, "cannot be read")],
)
async def test_a_broken_file_changes_nothing_and_is_reported(tmp_path: Path, text: str | None, says: str) -> None:
    """The last good one holds."""
    file = tmp_path / "inventory.yaml"
    file.write_text(GOOD)
    source = FileServices(file, Limits())
    await source.refresh()
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    await source.refresh()

    assert {"Kubernetes": ["Kubernetes/shop/orders"], "External": ["External/shop/bank"]} == keys(source)
    assert (False, True) == (source.describe().is_fresh, says in source.describe().problem)


async def test_a_file_without_any_service_is_not_believed(tmp_path: Path) -> None:
    """It was written for its pods: nobody means to remove every service like that."""
    file = tmp_path / "inventory.yaml"
    file.write_text("nodes: [{name: node-a}]\n")
    source = FileServices(file, Limits())
    await source.refresh()

    assert {} == dict(source.known())
    assert (False, True) == (source.describe().is_fresh, "no service" in source.describe().problem)


async def test_a_file_never_ages(tmp_path: Path) -> None:
    """Who writes one says what is so until it is written anew."""
    file = tmp_path / "inventory.yaml"
    file.write_text(GOOD)
    source = FileServices(file, Limits())
    await source.refresh()

    assert (2, None) == (source.describe().services, source.describe().max_age_seconds)
