"""Services that a source keeps, over both databases: what is written, by whom, and what never is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from app.authority.administration import Administration
from app.authority.placement.keep_services import KeepServices
from app.authority.placement.service_source import KnownServices, ServicesState
from app.authority.store import Transaction
from app.errors import AppError, ErrorCode
from app.identity.inventory import Service
from app.limits import KubernetesLimits, Limits
from app.storage.database import Database
from tests.support.administration import ALICE, StandingClock, administration_over
from tests.support.direct_aside import DirectAside

LIMITS = KubernetesLimits(services_gather_seconds=0.0, services_settle_seconds=60.0)


class ProgrammedSource:
    """A `ServiceSource` whose knowledge a test sets."""

    def __init__(self) -> None:
        self.registries: dict[str, KnownServices] = {}
        self._changed = asyncio.Event()

    def set(self, *services: Service, registry: str = "Kubernetes", version: int | None = None) -> None:
        self.registries[registry] = KnownServices({one.key: one for one in services}, version)
        self._changed.set()

    def known(self) -> Mapping[str, KnownServices]:
        return self.registries

    async def changed(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    def describe(self) -> ServicesState:
        return ServicesState(kind="kubernetes", services=1, is_fresh=True)


def service(name: str, address: str = "10.96.0.10", registry: str = "Kubernetes") -> Service:
    return Service(namespace="shop", name=name, registry=registry, addresses=(address,), ports=(80,))


def keeper(database: Database, source: ProgrammedSource, monotonic: Any = lambda: 0.0) -> KeepServices:
    return KeepServices(database, source, clock=StandingClock(), limits=LIMITS, monotonic=monotonic)


async def stored(database: Database) -> dict[str, tuple[str, ...]]:
    services = (await database.read(lambda transaction: transaction.inventory.services())).items()
    return {key: found.addresses for key, found in services}


async def numbers(database: Database) -> tuple[int, int]:
    """The number of the snapshot, and the generation of the services."""
    status = await database.read(lambda transaction: transaction.status())
    generation = await database.read(lambda transaction: transaction.inventory.services_generation())
    return status.snapshot_number, generation


async def test_what_differs_is_written_as_one_change(database: Database) -> None:
    """And nothing when nothing does: neither a generation nor a snapshot nor a ledger entry."""
    source = ProgrammedSource()
    keep = keeper(database, source)
    source.set(service("a"), service("b"), service("c"), version=7)
    assert 3 == await keep.keep()
    first = await numbers(database)
    assert 0 == await keep.keep()
    assert first == await numbers(database)

    source.set(service("a", "10.96.0.99"), service("c"), service("d"), version=9)
    assert 3 == await keep.keep()
    second = await numbers(database)

    assert {
        "Kubernetes/shop/a": ("10.96.0.99",),
        "Kubernetes/shop/c": ("10.96.0.10",),
        "Kubernetes/shop/d": ("10.96.0.10",),
    } == await stored(database)
    assert (1, 1) == (second[0] - first[0], second[1] - first[1])
    delta = await database.read_delta(first[0])
    assert {"Kubernetes/shop/a", "Kubernetes/shop/b", "Kubernetes/shop/d"} == set(delta.services)


async def test_a_registry_that_is_not_known_is_left_as_it_is(database: Database) -> None:
    """Nor are the nodes and pods of the inventory touched."""
    administration = administration_over(database)
    await administration.inventory.put(
        ALICE,
        {
            "nodes": [{"name": "node-a"}],
            "services": [{"namespace": "shop", "name": "bank", "registry": "External", "addresses": ["192.0.2.1"]}],
        },
    )
    source = ProgrammedSource()
    source.set(service("a"), version=7)
    await keeper(database, source).keep()

    assert {"External/shop/bank": ("192.0.2.1",), "Kubernetes/shop/a": ("10.96.0.10",)} == await stored(database)
    source.set(registry="External", version=8)
    await keeper(database, source).keep()
    assert ["Kubernetes/shop/a"] == list(await stored(database))
    nodes = await database.read(lambda transaction: transaction.inventory.nodes())
    assert ["node-a"] == list(nodes)


async def test_a_replica_that_lags_behind_undoes_nothing(database: Database) -> None:
    """It writes again once it knows as much as who wrote last."""
    ahead, behind = ProgrammedSource(), ProgrammedSource()
    ahead.set(service("a"), service("new"), version=20)
    behind.set(service("a", "10.96.0.1"), version=19)
    await keeper(database, ahead).keep()
    slow = keeper(database, behind)

    assert 0 == await slow.keep()
    assert {"Kubernetes/shop/a", "Kubernetes/shop/new"} == set(await stored(database))
    behind.set(service("a"), service("new"), service("newer"), version=21)
    assert 1 == await slow.keep()
    assert "Kubernetes/shop/newer" in await stored(database)


async def test_versions_that_went_back_are_believed_after_a_while(database: Database) -> None:
    """A cluster that was restored from a backup never comes to the version that was stored."""
    seconds = 0.0
    before, restored = ProgrammedSource(), ProgrammedSource()
    before.set(service("a"), service("lost"), version=1_000)
    await keeper(database, before).keep()
    restored.set(service("a"), version=400)
    keep = keeper(database, restored, lambda: seconds)

    assert 0 == await keep.keep()
    seconds = LIMITS.services_settle_seconds - 1
    assert 0 == await keep.keep()
    seconds = LIMITS.services_settle_seconds
    assert 1 == await keep.keep()
    assert ["Kubernetes/shop/a"] == list(await stored(database))
    restored.set(service("a"), service("b"), version=401)
    assert 1 == await keep.keep()


async def test_a_change_by_somebody_else_is_seen(database: Database) -> None:
    """What was read before is not relied on once the generation moved."""
    source = ProgrammedSource()
    keep = keeper(database, source)
    source.set(service("a"), version=7)
    await keep.keep()

    def meddle(transaction: Transaction) -> None:
        transaction.lock()
        transaction.inventory.change(nodes={}, workloads={}, services={"Kubernetes/shop/a": None})

    await database.write(meddle)
    assert 1 == await keep.keep()
    assert ["Kubernetes/shop/a"] == list(await stored(database))


async def test_it_follows_its_source_and_says_what_it_cannot_store(database: Database) -> None:
    """A store that does not answer is a problem that passes."""
    source = ProgrammedSource()
    keep = keeper(database, source)
    running = asyncio.create_task(keep.run())
    async with asyncio.timeout(10):
        source.set(service("a"), version=7)
        while not await stored(database):
            await asyncio.sleep(0.002)
        assert keep.describe().is_fresh
        real, keep._store = keep._store, _Away()  # type: ignore[assignment]
        source.set(service("b"), version=8)
        while keep.describe().is_fresh:
            await asyncio.sleep(0.002)
        assert "away" in keep.describe().problem
        keep._store = real
        source.set(service("b"), version=9)
        while not keep.describe().is_fresh:
            await asyncio.sleep(0.002)
    running.cancel()
    await asyncio.wait((running,))

    assert ["Kubernetes/shop/b"] == list(await stored(database))


class _Away:
    """A store that does not answer."""

    async def read(self, _: Any) -> Any:
        raise AppError(ErrorCode.UNAVAILABLE, "the database is away")


async def test_the_ledger_says_that_the_system_wrote_them(database: Database) -> None:
    """Counts, and which source."""
    source = ProgrammedSource()
    source.set(service("a"), version=7)
    await keeper(database, source).keep()

    ((_, data, _),) = await database.read_ledger(0, 10)
    entry = json.loads(data)
    assert ("system", "inventory.follow", "services from kubernetes", {"created": 1}) == (
        entry["actor"],
        entry["detail"]["act"],
        entry["detail"]["reason"],
        entry["detail"]["services"],
    )


async def test_the_api_does_not_write_services_that_somebody_else_keeps(database: Database) -> None:
    """Refused, naming who does; a document without services replaces nodes and pods, and leaves the services."""
    source = ProgrammedSource()
    source.set(service("a"), version=7)
    await keeper(database, source).keep()
    administration = Administration(
        database, clock=StandingClock(), limits=Limits(), aside=DirectAside(), services_from="kubernetes"
    )
    with_services = {"services": [{"namespace": "shop", "name": "x", "addresses": ["10.0.0.1"]}]}

    for refused in (
        lambda: administration.inventory.put(ALICE, with_services),
        lambda: administration.inventory.apply(ALICE, with_services),
        lambda: administration.inventory.delete_item(ALICE, "service", "Kubernetes/shop/a"),
    ):
        with pytest.raises(AppError) as caught:
            await refused()
        assert (ErrorCode.CONFLICT, True) == (caught.value.code, "kubernetes" in caught.value.detail)
    await administration.inventory.put(ALICE, {"nodes": [{"name": "node-a"}]})
    assert ["Kubernetes/shop/a"] == list(await stored(database))
