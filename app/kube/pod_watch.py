"""The placement of one cluster from its API server: a watch of all pods (`ListWatch`).

While nothing can be heard the last good table serves, for a bounded time since the last thing that was heard.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from collections.abc import Set as AbstractSet

from app.authority.placement.placements import SourceState
from app.ca.impersonation import NodeCaller, PlacementIndex
from app.errors import AppError, ErrorCode
from app.kube.access import ApiServer
from app.kube.list_watch import ListWatch, Resource
from app.kube.live_look import LiveLook
from app.kube.pod_json import read_pod
from app.kube.pod_table import PodTable
from app.limits import KubernetesLimits
from app.telemetry import metrics

PODS = "/api/v1/pods"


class PodWatch:
    """Keeps the pods of a cluster; implements `app.authority.placement.placements.PlacementSource`.

    `bans` gives the names of the cluster's banned nodes, and raises what `index` is to raise when they are not known.
    """

    def __init__(
        self,
        api: ApiServer,
        limits: KubernetesLimits,
        *,
        cluster: str,
        bans: Callable[[], AbstractSet[str]] = frozenset,
        monotonic: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._limits = limits
        self._cluster = cluster
        self._bans = bans
        self._monotonic = monotonic
        self._watch = ListWatch(
            api,
            limits,
            Resource(
                path=PODS, word="pods", read=read_pod, on_relist=lambda: metrics.PLACEMENT_RELISTS.labels(cluster).inc()
            ),
            lambda: PodTable(max_pods=limits.max_pods),
            cluster=cluster,
            monotonic=monotonic,
            jitter=jitter,
        )
        self._look = LiveLook(api, limits, cluster=cluster, monotonic=monotonic)

    def index(self) -> PlacementIndex:
        """The pods as of the last event.

        Raises:
            AppError: `UNAVAILABLE` when they were never listed, or nothing was heard for too long.
        """
        table = self._watch.table
        if table is None:
            raise _unavailable(f"the pods of cluster {self._cluster} were not listed yet: {self._watch.problem}")
        age = self._monotonic() - self._watch.heard_at
        if age > self._limits.pods_max_age_seconds:
            raise _unavailable(f"nothing was heard of the pods of cluster {self._cluster} for {age:.0f} s")
        index = table.index
        index.ban(self._bans())
        return index

    async def look_again(self, caller: NodeCaller) -> PlacementIndex:
        """Ask for the pods of the caller's node, and take what is newer than the events.

        Raises:
            AppError: `UNAVAILABLE` when the API server does not answer in time, or the table is too old.
        """
        self.index()
        seen = await self._look(caller)
        table = self._watch.table
        if seen is not None and table is not None:
            table.merge(seen.pods, seen.version)
        return self.index()

    def describe(self) -> SourceState:
        """How it stands."""
        problem, usable, table = self._watch.problem, True, self._watch.table
        try:
            self.index()
        except AppError as error:
            problem, usable = problem or error.diagnosis, False
        return SourceState(
            kind="kubernetes",
            version="" if table is None else str(table.version),
            age_seconds=None if table is None else self._monotonic() - self._watch.heard_at,
            max_age_seconds=self._limits.pods_max_age_seconds,
            workloads=0 if table is None else len(table.index),
            usable=usable,
            problem=problem,
        )

    async def run(self) -> None:
        """List and watch for ever; what fails is logged and tried again, more and more slowly."""
        await self._watch.run()


def _unavailable(diagnosis: str) -> AppError:
    return AppError(ErrorCode.UNAVAILABLE, "the inventory cannot be read at the moment; try again", diagnosis=diagnosis)
