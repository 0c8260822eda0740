"""The contract of the snapshot source: numbers that only grow, and deltas that cost the change."""

from __future__ import annotations

import asyncio

from app.authority.records import DocumentWrite, Outcome, RevisionDraft
from app.identity.inventory import Node, Service, Workload
from app.limits import StorageLimits
from app.storage.database import Database
from app.storage.transaction import SqlTransaction
from tests.contract.conftest import NOW

CART = Service(namespace="shop", name="cart", addresses=("10.0.0.1",), ports=(80,), labels=(("app", "cart"),))
POD = Workload(namespace="shop", name="cart-0", service_account="cart", node="node-a", uid="u-1", phase="Running")


def document(name: str, etag: str = "e1", previous: str = "", *, delete: bool = False) -> DocumentWrite:
    key = f"AuthorizationPolicy/shop/{name}"
    outcome = Outcome.DELETED if delete else Outcome.CONFIGURED if previous else Outcome.CREATED
    return DocumentWrite(
        key=key,
        kind="AuthorizationPolicy",
        namespace="shop",
        name=name,
        source="api",
        outcome=outcome,
        etag="" if delete else etag,
        previous_etag=previous,
        content=None if delete else {"kind": "AuthorizationPolicy", "spec": {"version": etag}},
    )


async def write_documents(database: Database, *writes: DocumentWrite) -> int:
    def work(transaction: SqlTransaction) -> int:
        transaction.lock()
        draft = RevisionDraft(author="admin:test", reason="because", time=NOW, writes=writes)
        return transaction.policies.append(draft)[1]

    return await database.write(work)


async def change_inventory(database: Database, **changes: object) -> int:
    empty: dict[str, object] = {"nodes": {}, "workloads": {}, "services": {}}

    def work(transaction: SqlTransaction) -> int:
        transaction.lock()
        return transaction.inventory.change(**{**empty, **changes})  # type: ignore[arg-type]

    return await database.write(work)


async def test_an_empty_store_has_an_empty_delta(database: Database) -> None:
    """A fresh database is a set without documents at revision 0."""
    delta = await database.read_delta(-1)
    assert (0, 0, 0, {}, {}) == (
        delta.number,
        delta.revision,
        delta.inventory_generation,
        delta.documents,
        delta.services,
    )


async def test_a_delta_holds_what_changed_and_nothing_else(database: Database) -> None:
    """Only documents and services that changed after the number are in a delta."""
    first = await write_documents(database, document("a"), document("b"))
    second = await write_documents(database, document("b", "e2", "e1"))
    assert first < second
    delta = await database.read_delta(first)
    assert second == delta.number
    assert {"AuthorizationPolicy/shop/b": {"kind": "AuthorizationPolicy", "spec": {"version": "e2"}}} == delta.documents
    assert {} == (await database.read_delta(second)).documents


async def test_deletions_are_in_a_delta_and_not_in_the_whole(database: Database) -> None:
    """A reader that has the item learns that it is gone; one that starts afresh never hears of it."""
    await change_inventory(database, services={CART.key: CART})
    before = await write_documents(database, document("a"))
    await write_documents(database, document("a", previous="e1", delete=True))
    await change_inventory(database, services={CART.key: None})
    delta = await database.read_delta(before)
    assert {"AuthorizationPolicy/shop/a": None} == delta.documents
    assert {CART.key: None} == delta.services
    whole = await database.read_delta(-1)
    assert ({}, {}) == (whole.documents, whole.services)


async def test_a_document_that_comes_back_is_in_the_delta_again(database: Database) -> None:
    """Create, delete, create: the key changes hands with its tombstone."""
    await write_documents(database, document("a"))
    number = await write_documents(database, document("a", previous="e1", delete=True))
    await write_documents(database, document("a", "e3"))
    delta = await database.read_delta(number)
    assert {"AuthorizationPolicy/shop/a": {"kind": "AuthorizationPolicy", "spec": {"version": "e3"}}} == delta.documents


async def test_churn_of_pods_does_not_move_the_snapshot(database: Database) -> None:
    """Workloads and nodes have a generation; the snapshot's numbers move only with services."""
    services = await change_inventory(database, services={CART.key: CART})
    before = await database.read_delta(-1)
    later = await change_inventory(database, workloads={POD.key: POD}, nodes={"node-a": Node(name="node-a")})
    after = await database.read_delta(-1)
    assert before == after
    assert services == after.inventory_generation
    assert later == services + 1


async def test_the_inventory_comes_back_as_it_was_stored(database: Database) -> None:
    """Every member of nodes, workloads and services survives, and an unchanged generation is not read again."""
    banned = Node(name="node-b", banned=True)
    rich = Workload(
        namespace="shop",
        name="cart-1",
        service_account="cart",
        node="node-b",
        uid="u-2",
        phase="Failed",
        addresses=("10.1.0.1", "fd00::1"),
        labels=(("app", "cart"), ("tier", "a")),
    )
    entry = Service(namespace="shop", name="pay", registry="External", hosts=("pay.example",), ports=(443, 80))
    generation = await change_inventory(
        database,
        nodes={"node-a": Node(name="node-a"), "node-b": banned},
        workloads={POD.key: POD, rich.key: rich},
        services={CART.key: CART, entry.key: entry},
    )
    contents = await database.read_inventory()
    assert contents is not None
    assert generation == contents.generation
    assert (Node(name="node-a"), banned) == contents.nodes
    assert (POD, rich) == contents.workloads
    assert {CART, entry} == set(contents.services)
    assert await database.read_inventory(known_generation=generation) is None


async def test_waiting_ends_when_the_number_grows(database: Database) -> None:
    """A change wakes the waiter; a change that is there already is not waited for."""
    waiting = asyncio.create_task(database.wait_for_change(0, 10.0))
    number = await write_documents(database, document("a"))
    assert await waiting is True
    assert await database.wait_for_change(number - 1, 10.0) is True


async def test_waiting_ends_without_a_change_when_the_time_is_over(database: Database) -> None:
    """No change, no wake-up: the answer is False."""
    await change_inventory(database, workloads={POD.key: POD})
    assert await database.wait_for_change(0, 0.05) is False


async def test_a_change_by_another_replica_is_noticed(postgres_url: str) -> None:
    """The poll is the truth where no notification can come from."""
    limits = StorageLimits(change_poll_seconds=0.02)
    with Database.open(postgres_url, limits) as here, Database.open(postgres_url, limits) as there:
        waiting = asyncio.create_task(here.wait_for_change(0, 10.0))
        await write_documents(there, document("a"))
        assert await waiting is True
