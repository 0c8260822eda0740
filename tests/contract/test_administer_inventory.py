"""The inventory, over both databases."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest

from app.authority.placement.clusters import Clusters
from app.authority.records import Outcome
from app.errors import AppError, ErrorCode
from app.identity.inventory import Node
from app.storage.database import Database
from tests.support.administration import ALICE, StandingClock, administration_over

COMPACT: dict[str, Any] = {
    "nodes": [{"name": "node-a"}, {"name": "node-b", "banned": True}],
    "workloads": [{"namespace": "shop", "name": "cart-0", "serviceAccount": "cart", "node": "node-a", "uid": "u-1"}],
    "services": [{"namespace": "shop", "name": "cart", "addresses": ["10.0.0.1"], "ports": [80]}],
}


async def code_of(awaitable: Any) -> ErrorCode:
    with pytest.raises(AppError) as caught:
        await awaitable
    return caught.value.code


async def test_putting_replaces_the_whole_and_counts_what_happened(database: Database) -> None:
    """What the new document does not name is gone."""
    administration = administration_over(database)
    first = await administration.inventory.put(ALICE, COMPACT)
    assert ({Outcome.CREATED: 2}, {Outcome.CREATED: 1}, {Outcome.CREATED: 1}) == (
        first.nodes,
        first.workloads,
        first.services,
    )
    second = await administration.inventory.put(ALICE, {**COMPACT, "nodes": [{"name": "node-a"}], "services": []})
    assert (
        {Outcome.UNCHANGED: 1, Outcome.DELETED: 1},
        {Outcome.UNCHANGED: 1},
        {Outcome.DELETED: 1},
    ) == (second.nodes, second.workloads, second.services)
    contents = await administration.inventory.get()
    assert second.generation == contents.generation
    assert ((Node(name="node-a"),), ()) == (contents.nodes, contents.services)


async def test_applying_leaves_what_it_does_not_name(database: Database) -> None:
    """Items are created or replaced one by one."""
    administration = administration_over(database)
    await administration.inventory.put(ALICE, COMPACT)
    change = await administration.inventory.apply(ALICE, {"nodes": [{"name": "node-b"}, {"name": "node-c"}]})
    assert {Outcome.CONFIGURED: 1, Outcome.CREATED: 1} == change.nodes
    contents = await administration.inventory.get()
    assert ["node-a", "node-b", "node-c"] == [node.name for node in contents.nodes]
    assert (1, 1) == (len(contents.workloads), len(contents.services))


async def test_an_unchanged_inventory_has_no_new_generation_and_no_entry(database: Database) -> None:
    """Sending the same again is free."""
    administration = administration_over(database)
    first = await administration.inventory.put(ALICE, COMPACT)
    second = await administration.inventory.put(ALICE, COMPACT)
    assert first.generation == second.generation
    assert len(await database.read_ledger(0, 10)) == 1


async def test_only_services_move_the_snapshot(database: Database) -> None:
    """Churn of pods re-sends no policy and no service."""
    administration = administration_over(database)
    await administration.inventory.put(ALICE, COMPACT)
    before = await administration.status()
    pod = {"namespace": "shop", "name": "cart-1", "serviceAccount": "cart", "node": "node-a"}
    await administration.inventory.apply(ALICE, {"workloads": [pod]})
    between = await administration.status()
    await administration.inventory.apply(ALICE, {"services": [{"namespace": "shop", "name": "pay"}]})
    after = await administration.status()
    assert (before.snapshot_number, before.inventory_generation + 1) == (
        between.snapshot_number,
        between.inventory_generation,
    )
    assert between.snapshot_number + 1 == after.snapshot_number


async def test_single_items_are_deleted_by_key(database: Database) -> None:
    """A node, a workload and a service, each by its own key; what is not there is not found."""
    administration = administration_over(database)
    await administration.inventory.put(ALICE, COMPACT)
    await administration.inventory.delete_item(ALICE, "workload", "shop/cart-0")
    await administration.inventory.delete_item(ALICE, "service", "Kubernetes/shop/cart")
    await administration.inventory.delete_item(ALICE, "node", "node-a")
    contents = await administration.inventory.get()
    assert (1, 0, 0) == (len(contents.nodes), len(contents.workloads), len(contents.services))
    for kind, key in (("node", "node-a"), ("workload", "x"), ("service", ""), ("pod", "shop/cart-0")):
        assert ErrorCode.NOT_FOUND is await code_of(administration.inventory.delete_item(ALICE, kind, key))


async def test_what_kubectl_prints_lifts_no_ban(database: Database) -> None:
    """A Kubernetes Node says nothing about bans, so importing it again must not end one."""
    administration = administration_over(database)
    await administration.inventory.put(ALICE, COMPACT)
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-b"}}
    await administration.inventory.put(ALICE, {"apiVersion": "v1", "kind": "List", "items": [node]})
    assert (Node(name="node-b", banned=True),) == (await administration.inventory.get()).nodes


async def test_replacing_the_inventory_by_what_kubectl_prints_lifts_no_ban(database: Database) -> None:
    """A banned node that is away for a moment would come back unbanned; only who can speak of bans may drop it."""
    administration = administration_over(database)
    await administration.inventory.put(ALICE, COMPACT)
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-c"}}
    change = await administration.inventory.put(ALICE, {"apiVersion": "v1", "kind": "List", "items": [node]})
    kept = (await administration.inventory.get()).nodes
    await administration.inventory.put(ALICE, {"nodes": [{"name": "node-c"}]})
    left = (await administration.inventory.get()).nodes

    assert (Node(name="node-b", banned=True), Node(name="node-c")) == kept
    assert 1 == change.nodes[Outcome.DELETED]  # node-a
    assert (Node(name="node-c"),) == left


async def test_a_dry_run_changes_nothing(database: Database) -> None:
    """It counts what would happen."""
    administration = administration_over(database)
    change = await administration.inventory.put(ALICE, COMPACT, dry_run=True)
    assert ({Outcome.CREATED: 2}, True, 0) == (change.nodes, change.dry_run, change.generation)
    assert 0 == (await administration.inventory.get()).generation
    assert () == await database.read_ledger(0, 10)


async def test_the_expected_generation_must_hold(database: Database) -> None:
    """The If-Match of the inventory."""
    administration = administration_over(database)
    change = await administration.inventory.put(ALICE, COMPACT, expected_generation=0)
    stale = administration.inventory.put(ALICE, {}, expected_generation=0)
    assert ErrorCode.PRECONDITION_FAILED is await code_of(stale)
    await administration.inventory.put(ALICE, {}, expected_generation=change.generation)


async def test_concurrent_applications_lose_nothing(database: Database) -> None:
    """A plan that another one overtook is made again, at last where nobody can overtake it."""
    administration = administration_over(database)
    await asyncio.gather(
        *(administration.inventory.apply(ALICE, {"nodes": [{"name": f"n-{number}"}]}) for number in range(20))
    )
    assert 20 == len((await administration.inventory.get()).nodes)


async def test_every_change_is_on_record(database: Database) -> None:
    """Who, what and how much; in the same transaction."""
    administration = administration_over(database)
    await administration.inventory.put(ALICE, COMPACT, reason="import")
    ((_, data, _),) = await database.read_ledger(0, 10)
    entry = json.loads(data)
    assert ("admin:alice", "inventory") == (entry["actor"], entry["subject"])
    assert ("inventory.put", "import", 0, 1, {"created": 2}) == tuple(
        entry["detail"][name] for name in ("act", "reason", "before", "after", "nodes")
    )


async def test_a_bad_document_changes_nothing(database: Database) -> None:
    """All its errors at once, by pointer."""
    administration = administration_over(database)
    bad = {"nodes": [{"name": "OK?"}], "pods": [], "services": [{"namespace": "a", "name": "b", "ports": [0]}]}
    with pytest.raises(AppError) as caught:
        await administration.inventory.put(ALICE, bad)
    assert ErrorCode.INVALID is caught.value.code
    assert ["/pods", "/nodes/0/name", "/services/0/ports/0"] == [found.pointer for found in caught.value.errors]
    assert 0 == (await administration.inventory.get()).generation


async def test_leases_are_stored_and_only_their_beginning_and_end_are_on_record(database: Database) -> None:
    """A renewal once a minute would drown everything else in the ledger."""
    clock = StandingClock()
    administration = administration_over(database, clock)
    await administration.inventory.put(ALICE, COMPACT, lease=timedelta(seconds=60))
    clock.advance(30)
    until = await administration.inventory.lease(ALICE, timedelta(seconds=60))

    assert {"": until} == await database.read_leases()
    assert clock.now() + timedelta(seconds=60) == until
    await administration.inventory.lease(ALICE, timedelta())
    assert {} == await database.read_leases()
    acts = [json.loads(data)["detail"]["act"] for _, data, _ in await database.read_ledger(0, 10)]
    assert ["inventory.put", "inventory.lease", "inventory.lease"] == acts


async def test_a_dry_run_gives_no_lease(database: Database) -> None:
    """It changes nothing at all."""
    await administration_over(database).inventory.put(ALICE, COMPACT, lease=timedelta(seconds=60), dry_run=True)

    assert {} == await database.read_leases()


async def test_replacing_one_cluster_leaves_what_only_looks_like_it(database: Database) -> None:
    """Keys of nodes and workloads of different clusters may be spelt the same."""
    administration = administration_over(database, clusters=Clusters(others={"shop": set()}))
    await administration.inventory.put(ALICE, COMPACT)
    await administration.inventory.put(ALICE, {"nodes": [{"name": "cart-0"}]}, cluster="shop")
    await administration.inventory.put(ALICE, {})
    contents = await administration.inventory.get()

    assert ([("cart-0", "shop")], ()) == ([(node.name, node.cluster) for node in contents.nodes], contents.workloads)
