"""The services of a cluster from its API server: lists, watches, what goes wrong, and what is never believed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.authority.placement.service_source import KnownServices
from app.kube.service_watch import SERVICE_ENTRIES as ENTRIES_PATH
from app.kube.service_watch import SERVICES as SERVICES_PATH
from app.kube.service_watch import ServiceWatch
from app.limits import KubernetesLimits
from tests.support.kube_api import SERVICE_ENTRIES, SERVICES, KubeApi, client_of, service, service_entry

LIMITS = KubernetesLimits(watch_retry_min_seconds=0.001, watch_retry_max_seconds=0.02, page_pods=2)


@asynccontextmanager
async def watching(
    api: KubeApi, folder: Path, limits: KubernetesLimits = LIMITS, **options: Any
) -> AsyncIterator[ServiceWatch]:
    """A watch that runs."""
    async with client_of(api, folder, limits) as client:
        watch = ServiceWatch(client, limits, cluster="Kubernetes", **options)
        task = asyncio.create_task(watch.run())
        try:
            yield watch
        finally:
            task.cancel()
            await asyncio.wait((task,))
            assert task.cancelled(), task.exception()


def addresses(watch: ServiceWatch, registry: str = "Kubernetes") -> dict[str, tuple[str, ...]]:
    """What is known, by key."""
    known = watch.known().get(registry, KnownServices({}))
    return {key: found.addresses for key, found in known.services.items()}


async def test_services_are_listed_in_pages_and_then_followed(api: KubeApi, tmp_path: Path) -> None:
    """With every address and port; headless ones have none; made, changed and deleted ones as soon as it happens."""
    api.put(service("orders", "10.96.0.10", "fd00::10", ports=(8080, 9090)), SERVICES)
    api.put(service("cart", "10.96.0.11"), SERVICES)
    api.put(service("db"), SERVICES)
    async with watching(api, tmp_path) as watch:
        await api.until(lambda: api.watching == 1)
        known = watch.known()["Kubernetes"]
        orders = known.services["Kubernetes/shop/orders"]
        assert (("10.96.0.10", "fd00::10"), (8080, 9090), (("app", "orders"),)) == (
            orders.addresses,
            orders.ports,
            orders.labels,
        )
        assert () == known.services["Kubernetes/shop/db"].addresses
        assert api.version == known.version
        assert 2 == len(api.asked(SERVICES_PATH, limit="2"))

        api.put(service("cart", "10.96.0.12"), SERVICES)
        api.put(service("pay", "10.96.0.13"), SERVICES)
        api.delete("shop/db", SERVICES)
        await api.until(lambda: len(addresses(watch)) == 3 and "Kubernetes/shop/pay" in addresses(watch))
        await api.until(lambda: "Kubernetes/shop/db" not in addresses(watch))
        assert ("10.96.0.12",) == addresses(watch)["Kubernetes/shop/cart"]
        state = watch.describe()
        assert (True, 3, "", "kubernetes") == (state.is_fresh, state.services, state.problem, state.kind)


async def test_service_entries_with_the_addresses_that_istio_gave_them(api: KubeApi, tmp_path: Path) -> None:
    """Written and allocated addresses, in registry External; one list and one watch of their own."""
    api.put(service("kubernetes", "10.96.0.1", namespace="default"), SERVICES)
    api.put(service_entry("bank", "bank.example", addresses=("192.0.2.7",)), SERVICE_ENTRIES)
    api.put(service_entry("mail", "mail.example", allocated=("240.240.0.5", "2001:2::5")), SERVICE_ENTRIES)
    async with watching(api, tmp_path) as watch:
        await api.until(lambda: api.watching == 2)
        assert {
            "External/shop/bank": ("192.0.2.7",),
            "External/shop/mail": ("240.240.0.5", "2001:2::5"),
        } == addresses(watch, "External")
        assert ("mail.example",) == watch.known()["External"].services["External/shop/mail"].hosts

        api.delete("shop/bank", SERVICE_ENTRIES)
        api.delete("shop/mail", SERVICE_ENTRIES)
        await api.until(lambda: not addresses(watch, "External"))
        assert {} == dict(watch.known()["External"].services)


async def test_a_cluster_without_istios_kinds_has_no_service_entries(api: KubeApi, tmp_path: Path) -> None:
    """No problem, and nothing is said of that registry: what is stored there stays. It is asked again later."""
    api.put(service("kubernetes", "10.96.0.1", namespace="default"), SERVICES)
    async with watching(api, tmp_path, replace(LIMITS, watch_seconds=0.05)) as watch:
        await api.until(lambda: len(api.asked(ENTRIES_PATH, limit="1")) >= 2)
        assert ["Kubernetes"] == list(watch.known())
        assert (True, "") == (watch.describe().is_fresh, watch.describe().problem)

        api.put(service_entry("bank", "bank.example", addresses=("192.0.2.7",)), SERVICE_ENTRIES)
        await api.until(lambda: "External/shop/bank" in addresses(watch, "External"))


async def test_what_makes_no_sense_is_left_out_and_stops_nobody(api: KubeApi, tmp_path: Path) -> None:
    """Somebody's odd entry must not keep the services of everybody else from being known; it is counted and named."""
    odd = service_entry("odd", "odd.example", addresses=("not-an-address",))
    api.put(service("kubernetes", "10.96.0.1", namespace="default"), SERVICES)
    api.put(odd, SERVICE_ENTRIES)
    api.put(service_entry("bank", "bank.example", addresses=("192.0.2.0/24", "192.0.2.7")), SERVICE_ENTRIES)
    api.put(service_entry("none", "x y", addresses=("192.0.2.9",), namespace="No Namespace"), SERVICE_ENTRIES)
    async with watching(api, tmp_path) as watch:
        await api.until(lambda: api.watching == 2)
        assert ("192.0.2.7",) == addresses(watch, "External")["External/shop/bank"]
        assert "External/No Namespace/none" not in addresses(watch, "External")
        state = watch.describe()
        assert (2, True) == (state.left_out, state.is_fresh)
        assert "ServiceEntry shop/odd/spec/addresses/0" in state.problem

        odd["spec"]["addresses"] = ["192.0.2.8"]
        api.put(odd, SERVICE_ENTRIES)
        await api.until(lambda: watch.describe().left_out == 1)


async def test_a_list_without_any_service_is_not_believed(api: KubeApi, tmp_path: Path) -> None:
    """Every cluster has the service `kubernetes`: an empty answer would open or close every target at once."""
    async with watching(api, tmp_path) as watch:
        await api.until(lambda: api.watching == 1)
        assert "Kubernetes" not in watch.known()
        assert "no service at all" in watch.describe().problem


async def test_while_nothing_is_heard_the_services_stay_and_are_said_to_be_old(api: KubeApi, tmp_path: Path) -> None:
    """They are not removed: where requests go does not change because we cannot look."""
    seconds = 0.0
    api.put(service("orders", "10.96.0.10"), SERVICES)
    async with watching(api, tmp_path, monotonic=lambda: seconds) as watch:
        await api.until(lambda: api.watching == 1)
        seconds = LIMITS.services_max_age_seconds + 1
        assert ("10.96.0.10",) == addresses(watch)["Kubernetes/shop/orders"]
        assert (False, seconds) == (watch.describe().is_fresh, watch.describe().age_seconds)


async def test_a_version_that_is_gone_means_a_new_list(api: KubeApi, tmp_path: Path) -> None:
    """What was deleted while nobody looked is gone after it."""
    api.put(service("orders", "10.96.0.10"), SERVICES)
    api.put(service("cart", "10.96.0.11"), SERVICES)
    async with watching(api, tmp_path) as watch:
        await api.until(lambda: api.watching == 1)
        watches, api._watches = api._watches, {}
        api.delete("shop/cart", SERVICES)
        api.version += 10
        api.compact()
        api._watches = watches
        api.cut_watches()
        await api.until(lambda: list(addresses(watch)) == ["Kubernetes/shop/orders"])


async def test_a_refusal_says_which_rules_are_missing(api: KubeApi, tmp_path: Path) -> None:
    """The operator applies the ClusterRole of the guide."""
    for _ in range(50):
        api.fail_next(SERVICES, 403, "services is forbidden")
    async with watching(api, tmp_path) as watch:
        await api.until(lambda: "ClusterRole" in watch.describe().problem)
        assert {} == dict(watch.known())


async def test_too_many_services_are_not_taken(api: KubeApi, tmp_path: Path) -> None:
    """The bound is named."""
    for number in range(4):
        api.put(service(f"s{number}", f"10.96.0.{number + 1}"), SERVICES)
    async with watching(api, tmp_path, replace(LIMITS, max_services=3)) as watch:
        await api.until(lambda: "max_services" in watch.describe().problem)


async def test_who_waits_hears_of_each_change(api: KubeApi, tmp_path: Path) -> None:
    """And only of changes."""
    api.put(service("orders", "10.96.0.10"), SERVICES)
    async with watching(api, tmp_path) as watch, asyncio.timeout(10):
        await watch.changed()
        await api.until(lambda: api.watching == 1)
        waiting = asyncio.create_task(watch.changed())
        api.bookmark()
        await api.until(lambda: watch.known()["Kubernetes"].version == api.version)
        assert not waiting.done()
        api.put(service("cart", "10.96.0.11"), SERVICES)
        await waiting
        assert "Kubernetes/shop/cart" in addresses(watch)
