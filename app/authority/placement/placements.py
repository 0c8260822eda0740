"""Where each cluster's placement comes from: which workloads run on which of its nodes.

A source keeps one index up to date by itself and is asked for it without waiting. A caller is judged by the index of
its own cluster and by no other: names of nodes and pods mean nothing outside of their cluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from app.authority.certificates.credentials import unauthenticated
from app.authority.placement.clusters import Clusters
from app.ca.impersonation import NodeCaller, PlacementIndex
from app.errors import AppError, ErrorCode


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceState:
    """How one source stands. `age_seconds` counts from its last successful read, None before the first.

    `version` is the source's own (generation, resourceVersion, time of change); `problem` says what went wrong last,
    empty when nothing; `lease_until` is when whoever pushes the inventory promised to come again.
    """

    kind: str  # database, kubernetes, file
    version: str = ""
    age_seconds: float | None = None
    max_age_seconds: float | None = None  # None: it never ages
    workloads: int = 0
    usable: bool = True
    problem: str = ""
    lease_until: datetime | None = None

    def to_json(self) -> dict[str, Any]:
        """What the API shows."""
        return {
            "kind": self.kind,
            "version": self.version,
            "ageSeconds": None if self.age_seconds is None else round(self.age_seconds, 1),
            "maxAgeSeconds": self.max_age_seconds,
            "workloads": self.workloads,
            "usable": self.usable,
            "problem": self.problem,
            "leaseUntil": self.lease_until.isoformat() if self.lease_until else None,
        }


class PlacementSource(Protocol):
    """The placement of one cluster."""

    def index(self) -> PlacementIndex:
        """The current index. It may change at the next await: decide at once, over one state.

        Raises:
            AppError: `UNAVAILABLE` when the source was never read, or not for too long.
        """
        ...

    async def look_again(self, caller: NodeCaller) -> PlacementIndex:
        """The index after one live look at whatever concerns `caller`, because a pod may be newer than the index.

        Bounded in time, and shared by all who ask meanwhile.

        Raises:
            AppError: `UNAVAILABLE` when the source cannot be asked, or is too old.
        """
        ...

    def describe(self) -> SourceState:
        """How it stands, for operators."""
        ...


class Placements:
    """The source of each cluster."""

    def __init__(self, sources: Mapping[str, PlacementSource], clusters: Clusters) -> None:
        """`sources` by the ids of `clusters`."""
        self._sources = sources
        self.clusters = clusters

    def of(self, cluster: str) -> PlacementSource:
        """The source of a caller's cluster, by id; empty text means the local one.

        Raises:
            AppError: `UNAUTHENTICATED`, opaque, with a diagnosis, when there is no such cluster.
        """
        source = self._sources.get(cluster or self.clusters.id)
        if source is None:
            raise unauthenticated(
                f"the token is of cluster {cluster!r}, whose placement is not known: name it under clusters in the "
                f"settings (known: {', '.join(self._sources)})"
            )
        return source

    def named(self, name: str) -> tuple[str, PlacementSource]:
        """The id and the source of the cluster that an operator calls `name`.

        Raises:
            AppError: `NOT_FOUND` when none is called so.
        """
        cluster = self.clusters.resolve(name)
        if cluster is None or cluster not in self._sources:
            raise AppError(ErrorCode.NOT_FOUND, f"no cluster is called {name!r}; there are {', '.join(self._sources)}")
        return cluster, self._sources[cluster]

    def describe(self) -> dict[str, SourceState]:
        """How each source stands, by cluster."""
        return {cluster: source.describe() for cluster, source in self._sources.items()}
