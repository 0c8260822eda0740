"""The stored inventory as issuing reads it: one placement index a cluster, refreshed from the store.

Readers take one reference. Refreshing happens on a timer (`run`) and once more, live, before a request is
refused because its pod is not known: a pod may be newer than the last refresh, and a ztunnel that is refused
backs off for up to 150 seconds.

Bans of nodes are here whatever a cluster's placement comes from: an administrator writes them to the store.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from app.authority.placement.placements import SourceState
from app.authority.ports import InventoryContents, InventoryStore
from app.ca.impersonation import NodeCaller, PlacementIndex
from app.errors import AppError, ErrorCode
from app.identity.inventory import LOCAL_CLUSTER, Workload

_log = structlog.get_logger()
_EVERYWHERE = ""  # a banned node that names no cluster is banned in each


@dataclass(frozen=True, slots=True)
class _Stored:
    """One generation of the inventory, by cluster; immutable."""

    generation: int
    indexes: Mapping[str, PlacementIndex]
    bans: Mapping[str, frozenset[str]]
    leases: Mapping[str, datetime] = field(default_factory=dict)

    def bans_of(self, cluster: str) -> frozenset[str]:
        everywhere = self.bans.get(_EVERYWHERE, frozenset())
        return everywhere if cluster == LOCAL_CLUSTER else everywhere | self.bans.get(cluster, frozenset())


class InventoryView:
    """Holds what the newest inventory generation that could be read says of each cluster.

    `max_age_seconds` counts from the last read that succeeded; older data gives no rights (`UNAVAILABLE`). Bans are
    kept longer than placement, `ban_max_age_seconds`: while the store is away nobody can add one.
    """

    def __init__(
        self,
        store: InventoryStore,
        *,
        refresh_seconds: float = 0.5,
        max_age_seconds: float = 60.0,
        ban_max_age_seconds: float = 3_600.0,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._refresh_seconds = refresh_seconds
        self.max_age_seconds = max_age_seconds
        self._ban_max_age_seconds = ban_max_age_seconds
        self._monotonic = monotonic
        self._now = now
        self._stored: _Stored | None = None
        self._read_at = 0.0
        self._problem = ""
        self._reading = asyncio.Lock()

    @property
    def generation(self) -> int:
        """The inventory generation of the current indexes; -1 before the first read."""
        return -1 if self._stored is None else self._stored.generation

    def index(self, cluster: str = LOCAL_CLUSTER) -> PlacementIndex:
        """The current index of a cluster.

        Raises:
            AppError: `UNAVAILABLE` when the inventory was never read, or not for too long, or when whoever pushes
                it did not come again in time.
        """
        stored = self._within(self.max_age_seconds)
        lease = stored.leases.get(cluster)
        if lease is not None and self._now() > lease:
            raise _unavailable(f"its lease ended at {lease.isoformat()}: whoever pushes the inventory did not renew it")
        return stored.indexes.get(cluster) or PlacementIndex.build((), banned=stored.bans_of(cluster))

    def bans(self, cluster: str = LOCAL_CLUSTER) -> frozenset[str]:
        """The names of the nodes of a cluster that are banned.

        Raises:
            AppError: `UNAVAILABLE` when the store was never read, or not for too long.
        """
        return self._within(self._ban_max_age_seconds).bans_of(cluster)

    def source(self, cluster: str = LOCAL_CLUSTER) -> StoredPlacement:
        """The placement of one cluster from this inventory."""
        return StoredPlacement(self, cluster)

    def describe(self, cluster: str) -> SourceState:
        """How the inventory of a cluster stands."""
        stored = self._stored
        problem, usable = self._problem, True
        try:
            index = self.index(cluster)
        except AppError as error:
            problem, usable = error.diagnosis or problem, False
            index = (stored.indexes if stored else {}).get(cluster) or PlacementIndex.build(())
        return SourceState(
            kind="database",
            version="" if stored is None else str(stored.generation),
            age_seconds=None if stored is None else self._monotonic() - self._read_at,
            max_age_seconds=self.max_age_seconds,
            workloads=len(index),
            usable=usable,
            problem=problem,
            lease_until=stored.leases.get(cluster) if stored else None,
        )

    async def refresh(self) -> None:
        """Read the store now.

        Callers that come while a read is under way share the next one, so any number of them costs two reads.

        Raises:
            AppError: `UNAVAILABLE` when the store cannot be read.
        """
        asked_at = self._monotonic()
        async with self._reading:
            if self._stored is None or self._read_at < asked_at:
                await self._read()

    async def run(self) -> None:
        """Refresh for ever; a failing store is logged and asked again."""
        while True:
            try:
                await self.refresh()
            except AppError as error:
                self._problem = error.detail
                _log.warning("inventory_refresh_failed", reason=error.detail, diagnosis=error.diagnosis)
            await asyncio.sleep(self._refresh_seconds)

    async def _read(self) -> None:
        started = self._monotonic()
        # Leases first: a new lease must never vouch for contents from before it.
        leases = await self._store.read_leases()
        contents = await self._store.read_inventory(known_generation=self.generation)
        if contents is not None:
            # Tens of thousands of pods take longer than the event loop may stand still.
            self._stored = await asyncio.to_thread(_index, contents, leases)
        elif self._stored is not None:
            now = self._stored
            self._stored = _Stored(now.generation, now.indexes, now.bans, leases)
        else:
            self._stored = _Stored(-1, {}, {}, leases)
        self._read_at, self._problem = started, ""

    def _within(self, max_age_seconds: float) -> _Stored:
        age = self._monotonic() - self._read_at
        if self._stored is None or age > max_age_seconds:
            raise _unavailable(f"last read {age:.0f} s ago" if self._stored is not None else "never read")
        return self._stored


@dataclass(frozen=True, slots=True)
class StoredPlacement:
    """One cluster's part of the stored inventory; implements `app.authority.placement.placements.PlacementSource`."""

    view: InventoryView
    cluster: str = LOCAL_CLUSTER

    def index(self) -> PlacementIndex:
        """See `InventoryView.index`."""
        return self.view.index(self.cluster)

    def bans(self) -> frozenset[str]:
        """See `InventoryView.bans`."""
        return self.view.bans(self.cluster)

    async def look_again(self, caller: NodeCaller) -> PlacementIndex:  # noqa: ARG002 - one read has everything
        """Read the store once more."""
        await self.view.refresh()
        return self.view.index(self.cluster)

    def describe(self) -> SourceState:
        """How it stands."""
        return self.view.describe(self.cluster)


def _index(contents: InventoryContents, leases: Mapping[str, datetime]) -> _Stored:
    bans: defaultdict[str, set[str]] = defaultdict(set)
    for node in contents.nodes:
        if node.banned:
            bans[node.cluster].add(node.name)
    workloads: defaultdict[str, list[Workload]] = defaultdict(list)
    for workload in contents.workloads:
        workloads[workload.cluster].append(workload)
    stored = _Stored(contents.generation, {}, {cluster: frozenset(names) for cluster, names in bans.items()}, leases)
    indexes = {
        cluster: PlacementIndex.build(found, banned=stored.bans_of(cluster)) for cluster, found in workloads.items()
    }
    return _Stored(stored.generation, indexes, stored.bans, leases)


def _unavailable(diagnosis: str) -> AppError:
    return AppError(ErrorCode.UNAVAILABLE, "the inventory cannot be read at the moment; try again", diagnosis=diagnosis)
