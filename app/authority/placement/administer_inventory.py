"""The administration of the inventory: what runs where, cluster by cluster.

Errors, everywhere: as for `Administration`.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from app.authority.actor import Actor
from app.authority.placement.clusters import Clusters
from app.authority.placement.lease_inventory import lease_inventory
from app.authority.placement.put_inventory import (
    InventoryWrite,
    check_owner_of_services,
    delete_inventory_item,
    put_inventory,
)
from app.authority.policies.policy_commit import Act
from app.authority.ports import Clock, InventoryContents
from app.authority.records import InventoryChange
from app.authority.store import Store, Transaction
from app.errors import AppError, ErrorCode
from app.identity.inventory_fields import ClusterNames
from app.limits import Limits


class InventoryAdministration:
    """Reads and writes the inventory. `services_from` keeps its services; where that is not the API, it writes none."""

    def __init__(self, store: Store, *, clock: Clock, limits: Limits, clusters: Clusters, services_from: str) -> None:
        self._store = store
        self._clock = clock
        self._limits = limits
        self._clusters = clusters
        self._services_from = services_from

    async def get(self) -> InventoryContents:
        """Everything: nodes, workloads, services, and the generation."""
        return await self._store.read(_whole_inventory)

    async def put(
        self,
        actor: Actor,
        value: Any,
        *,
        cluster: str = "",
        lease: timedelta | None = None,
        expected_generation: int | None = None,
        reason: str = "",
        dry_run: bool = False,
    ) -> InventoryChange:
        """Replace the inventory of a cluster by a JSON value (the compact form, or a Kubernetes list).

        `lease` is the time until the caller promises to come again: None leaves it as it is, zero ends it.

        Raises:
            AppError: `INVALID` with field errors, `TOO_LARGE`, `PRECONDITION_FAILED`, `NOT_FOUND` for the cluster.
        """
        act = self._act("put", actor, reason, dry_run=dry_run)
        write = InventoryWrite(
            value=value,
            clusters=self._cluster_names(cluster),
            replace_all=True,
            expected_generation=expected_generation,
            lease=lease,
            services_from=self._services_from,
        )
        return await put_inventory(self._store, self._limits, act, write)

    async def apply(
        self,
        actor: Actor,
        value: Any,
        *,
        cluster: str = "",
        lease: timedelta | None = None,
        reason: str = "",
        dry_run: bool = False,
    ) -> InventoryChange:
        """Create or replace the items that a JSON value holds; what it does not name stays.

        Raises:
            AppError: as `put`.
        """
        act = self._act("apply", actor, reason, dry_run=dry_run)
        names = self._cluster_names(cluster)
        write = InventoryWrite(
            value=value, clusters=names, replace_all=False, lease=lease, services_from=self._services_from
        )
        return await put_inventory(self._store, self._limits, act, write)

    async def lease(self, actor: Actor, lease: timedelta, *, cluster: str = "", reason: str = "") -> datetime | None:
        """Say that the inventory of a cluster still holds, for `lease` from now; zero ends the lease.

        Raises:
            AppError: `INVALID` for a lease out of bounds, `NOT_FOUND` for the cluster.
        """
        act = self._act("lease", actor, reason)
        stored = self._cluster_names(cluster).default
        return await lease_inventory(self._store, self._limits.administration, act, stored, lease)

    async def delete_item(
        self, actor: Actor, kind: str, key: str, *, cluster: str = "", reason: str = ""
    ) -> InventoryChange:
        """Delete one `node` (by name), `workload` (by `<namespace>/<name>`) or `service` (by its key).

        Raises:
            AppError: `NOT_FOUND`.
        """
        if kind == "service":
            check_owner_of_services(self._services_from)
        act = self._act("delete", actor, reason)
        stored = self._cluster_names(cluster).default
        if stored and kind != "service":
            key = f"{stored}/{key}"
        return await delete_inventory_item(self._store, self._limits, act, kind, key)

    def _cluster_names(self, name: str) -> ClusterNames:
        stored = self._clusters.stored(name)
        if stored is None:
            raise AppError(ErrorCode.NOT_FOUND, f"no cluster is called {name!r}; there are {', '.join(self._clusters)}")
        return ClusterNames(stored, self._clusters.stored)

    def _act(self, verb: str, actor: Actor, reason: str, *, dry_run: bool = False) -> Act:
        return Act(verb=f"inventory.{verb}", actor=actor, reason=reason, now=self._clock.now(), dry_run=dry_run)


def _whole_inventory(transaction: Transaction) -> InventoryContents:
    rows = transaction.inventory
    return InventoryContents(
        rows.generation(),
        workloads=tuple(rows.workloads().values()),
        services=tuple(rows.services().values()),
        nodes=tuple(rows.nodes().values()),
    )
