"""The stored inventory by cluster: age, leases, bans."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from app.authority.placement.inventory_view import InventoryView
from app.ca.impersonation import NodeCaller
from app.errors import AppError, ErrorCode
from app.identity.inventory import Node
from app.identity.spiffe import WorkloadIdentity
from tests.support.ca import CART, UNAVAILABLE, MemoryInventory, workload

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
IDENTITY = WorkloadIdentity.parse(CART)
CALLER = NodeCaller(namespace="istio-system", service_account="ztunnel")


class Time:
    """A clock of both kinds that a test moves."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.seconds)


def view_of(store: MemoryInventory, time: Time) -> InventoryView:
    return InventoryView(store, monotonic=time.monotonic, now=time.now, max_age_seconds=60, ban_max_age_seconds=600)


def code_of(view: InventoryView, cluster: str = "") -> ErrorCode | None:
    try:
        view.index(cluster)
    except AppError as error:
        return error.code
    return None


async def test_each_cluster_has_its_own_placement() -> None:
    """The same names in two clusters are two things."""
    view = InventoryView(MemoryInventory([workload("cart-1", "cart"), workload("cart-1", "other", cluster="east")]))
    await view.refresh()

    assert view.index().runs("node-a", IDENTITY)
    assert not view.index("east").runs("node-a", IDENTITY)
    assert 0 == len(view.index("west"))


async def test_a_ban_holds_in_the_cluster_that_it_names_or_else_in_each() -> None:
    """Also in a cluster whose placement comes from elsewhere."""
    store = MemoryInventory(
        nodes=[Node(name="everywhere", banned=True), Node(name="there", banned=True, cluster="east"), Node(name="fine")]
    )
    view = InventoryView(store)
    await view.refresh()

    assert {"everywhere"} == view.bans()
    assert {"everywhere", "there"} == view.bans("east")
    assert view.index("east").is_banned("there")
    assert not view.index().is_banned("there")


async def test_a_lease_that_nobody_renewed_ends_the_placement_of_its_cluster_only() -> None:
    """Whoever promised to push again and did not: the data may be wrong, so it gives no rights (case 72)."""
    time, store = Time(), MemoryInventory([workload("cart-1", "cart")])
    store.leases = {"east": NOW + timedelta(seconds=120)}
    view = view_of(store, time)
    await view.refresh()
    assert (None, None) == (code_of(view), code_of(view, "east"))

    time.seconds = 121.0
    await view.refresh()

    assert (None, ErrorCode.UNAVAILABLE) == (code_of(view), code_of(view, "east"))
    assert (False, True) == (view.describe("east").usable, "did not renew" in view.describe("east").problem)


async def test_a_renewed_lease_is_seen_without_a_new_generation() -> None:
    """A pusher with nothing new to say still says that it is there."""
    time, store = Time(), MemoryInventory([workload("cart-1", "cart")])
    store.leases = {"": NOW + timedelta(seconds=10)}
    view = view_of(store, time)
    await view.refresh()
    time.seconds, store.leases = 20.0, {"": NOW + timedelta(seconds=30)}

    index = await view.source().look_again(CALLER)

    assert index.runs("node-a", IDENTITY)


async def test_bans_outlive_the_placement_when_the_store_is_away() -> None:
    """Nobody can add a ban meanwhile; but not for ever, and never before the first read."""
    time, store = Time(), MemoryInventory(nodes=[Node(name="node-a", banned=True)])
    view = view_of(store, time)
    with pytest.raises(AppError):
        view.bans()
    await view.refresh()
    store.failure = UNAVAILABLE
    time.seconds = 599.0
    assert (ErrorCode.UNAVAILABLE, {"node-a"}) == (code_of(view), view.bans())

    time.seconds = 601.0
    with pytest.raises(AppError) as caught:
        view.bans()
    assert ErrorCode.UNAVAILABLE is caught.value.code
