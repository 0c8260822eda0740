"""Nodes, workloads and services, each a key and its JSON form."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Connection, Table, delete, select

from app.identity.inventory import Node, Service, Workload
from app.identity.inventory_codec import (
    node_from_json,
    node_to_json,
    service_from_json,
    service_to_json,
    workload_from_json,
    workload_to_json,
)
from app.storage.counters import advance, all_values, assign, value_of
from app.storage.tables import counters, inventory_leases
from app.storage.tables import nodes as node_table
from app.storage.tables import services as service_table
from app.storage.tables import workloads as workload_table
from app.storage.upsert import chunks, upsert

T = TypeVar("T")

_MAX_VERSION = 2**63 - 1


class SqlInventoryRows:
    """Implements `app.authority.store.InventoryRows` on a connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def generation(self) -> int:
        """The number of the last change."""
        return value_of(self._connection, "inventory")

    def nodes(self) -> dict[str, Node]:
        """All nodes."""
        return self._all(node_table, node_from_json)

    def workloads(self) -> dict[str, Workload]:
        """All workloads."""
        return self._all(workload_table, workload_from_json)

    def services(self) -> dict[str, Service]:
        """All services."""
        query = select(service_table).where(service_table.c.deleted.is_(False)).order_by(service_table.c.key)
        return {row.key: service_from_json(json.loads(row.content)) for row in self._connection.execute(query)}

    def services_generation(self) -> int:
        """The number of the last change of services."""
        return value_of(self._connection, "services")

    def seen_version(self, registry: str) -> int:
        """Up to which resourceVersion a source knew the services of a registry when it stored them; 0 for never."""
        return all_values(self._connection).get(_seen(registry), 0)

    def put_seen_version(self, registry: str, version: int) -> None:
        """Say so."""
        upsert(self._connection, counters, [{"name": _seen(registry), "value": min(version, _MAX_VERSION)}])

    def leases(self) -> dict[str, datetime]:
        """Until when each cluster's inventory is leased."""
        return {row.cluster: row.until for row in self._connection.execute(select(inventory_leases))}

    def put_lease(self, cluster: str, until: datetime | None) -> None:
        """Set the lease of a cluster; None ends having one."""
        if until is None:
            self._connection.execute(delete(inventory_leases).where(inventory_leases.c.cluster == cluster))
        else:
            upsert(self._connection, inventory_leases, [{"cluster": cluster, "until": until}])

    def change(
        self,
        *,
        nodes: Mapping[str, Node | None],
        workloads: Mapping[str, Workload | None],
        services: Mapping[str, Service | None],
    ) -> int:
        """Store what changed and return the new generation."""
        generation = advance(self._connection, "inventory")
        self._store(node_table, nodes, node_to_json)
        self._store(workload_table, workloads, workload_to_json)
        if services:
            number = advance(self._connection, "snapshot")
            assign(self._connection, "services", generation)
            upsert(
                self._connection,
                service_table,
                [
                    {
                        "key": key,
                        "content": "" if service is None else _dump(service_to_json(service)),
                        "deleted": service is None,
                        "changed_number": number,
                    }
                    for key, service in services.items()
                ],
            )
        return generation

    def _all(self, table: Table, decode: Callable[[dict[str, Any]], T]) -> dict[str, T]:
        rows = self._connection.execute(select(table).order_by(table.c.key))
        return {row.key: decode(json.loads(row.content)) for row in rows}

    def _store(self, table: Table, items: Mapping[str, T | None], encode: Callable[[T], dict[str, Any]]) -> None:
        for chunk in chunks(key for key, item in items.items() if item is None):
            self._connection.execute(delete(table).where(table.c.key.in_(chunk)))
        upsert(
            self._connection,
            table,
            [{"key": key, "content": _dump(encode(item))} for key, item in items.items() if item is not None],
        )


def _seen(registry: str) -> str:
    return f"seen/{registry}"


def _dump(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
