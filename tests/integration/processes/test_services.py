"""Gatehouse as a process that takes its services from an API server: as far as the workers."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.support.gatehouse import Gatehouse
from tests.support.kube_api import OUR_TOKEN, SERVICES, running_kube_api, service


async def test_services_of_the_cluster_come_by_themselves(tmp_path: Path) -> None:
    """Stored, shown with their source and figures, not to be written by others, and gone when the cluster says so."""
    async with running_kube_api(tmp_path / "cluster") as api:
        (tmp_path / "token").write_text(OUR_TOKEN)
        access = {"server": api.url, "ca_file": str(api.ca_file), "token_file": str(tmp_path / "token")}
        api.put(service("orders", "10.96.0.10"), SERVICES)
        api.put(service("cart", "10.96.0.11"), SERVICES)
        settings = {
            "clusters": [{"name": "Kubernetes", "kubernetes": access}],
            "inventory": {"services": {"source": "kubernetes"}},
        }
        async with Gatehouse(tmp_path, role="authority", **settings) as gatehouse:
            admin = await gatehouse.admin()
            try:

                async def names() -> list[str]:
                    return [one["name"] for one in (await admin.get("/v1/inventory")).json()["services"]]

                async with asyncio.timeout(20):
                    while await names() != ["cart", "orders"]:
                        await asyncio.sleep(0.05)
                    api.delete("shop/cart", SERVICES)
                    while await names() != ["orders"]:
                        await asyncio.sleep(0.05)
                sources = (await admin.get("/v1/inventory/sources")).json()["services"]
                refused = await admin.put(
                    "/v1/inventory", json={"services": [{"namespace": "a", "name": "b", "addresses": ["10.0.0.1"]}]}
                )
            finally:
                await admin.aclose()
            figures = {f'gatehouse_services{name}{{source="kubernetes"}} 1.0' for name in ("", "_fresh")}
            async with asyncio.timeout(20):  # they are looked at once a second
                while not figures <= set((await gatehouse.get("/metrics")).text.splitlines()):
                    await asyncio.sleep(0.05)

    assert ("kubernetes", 1, True, "") == tuple(sources[name] for name in ("kind", "services", "fresh", "problem"))
    assert (409, True) == (refused.status_code, "inventory.services.source" in refused.text)
