"""The placement of one cluster from its API server: a paged list of all pods, then a watch from there on.

Follows the Kubernetes API concepts for "efficient detection of changes": `limit`/`continue`, `resourceVersion`,
`allowWatchBookmarks`. It lists again when the server says that the version is gone (410), when a version goes back
(an API server or an etcd that was restored), and when an event cannot be read. Meanwhile the last good table serves,
for a bounded time since the last thing that was heard.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable
from collections.abc import Set as AbstractSet
from typing import Any

import structlog

from app.authority.placement.placements import SourceState
from app.ca.impersonation import NodeCaller, PlacementIndex
from app.errors import AppError, ErrorCode
from app.kube.access import ApiServer
from app.kube.failures import GONE, ApiServerError, failure_of_status
from app.kube.live_look import LiveLook
from app.kube.pod_json import PodPage, read_pod, read_version
from app.kube.pod_table import PodTable, WentBackError
from app.limits import KubernetesLimits
from app.telemetry import metrics

_log = structlog.get_logger(__name__)
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
        self._api = api
        self._limits = limits
        self._cluster = cluster
        self._bans = bans
        self._monotonic = monotonic
        self._jitter = jitter
        self._table: PodTable | None = None
        self._is_complete = False  # whether the table can be moved on by events
        self._heard_at = 0.0
        self._problem = "the pods were not listed yet"
        self._look = LiveLook(api, limits, cluster=cluster, monotonic=monotonic)

    def index(self) -> PlacementIndex:
        """The pods as of the last event.

        Raises:
            AppError: `UNAVAILABLE` when they were never listed, or nothing was heard for too long.
        """
        if self._table is None:
            raise _unavailable(f"the pods of cluster {self._cluster} were not listed yet: {self._problem}")
        age = self._monotonic() - self._heard_at
        if age > self._limits.pods_max_age_seconds:
            raise _unavailable(f"nothing was heard of the pods of cluster {self._cluster} for {age:.0f} s")
        index = self._table.index
        index.ban(self._bans())
        return index

    async def look_again(self, caller: NodeCaller) -> PlacementIndex:
        """Ask for the pods of the caller's node, and take what is newer than the events.

        Raises:
            AppError: `UNAVAILABLE` when the API server does not answer in time, or the table is too old.
        """
        self.index()
        seen = await self._look(caller)
        if seen is not None and self._table is not None:
            self._table.merge(seen.pods, seen.version)
        return self.index()

    def describe(self) -> SourceState:
        """How it stands."""
        problem, usable, table = self._problem, True, self._table
        try:
            self.index()
        except AppError as error:
            problem, usable = problem or error.diagnosis, False
        return SourceState(
            kind="kubernetes",
            version="" if table is None else str(table.version),
            age_seconds=None if table is None else self._monotonic() - self._heard_at,
            max_age_seconds=self._limits.pods_max_age_seconds,
            workloads=0 if table is None else len(table.index),
            usable=usable,
            problem=problem,
        )

    async def run(self) -> None:
        """List and watch for ever; what fails is logged and tried again, more and more slowly."""
        failures = 0
        while True:
            before = self._heard_at
            try:
                if self._table is None or not self._is_complete:
                    await self._list()
                await self._watch(self._table)
                failure: ApiServerError | None = None
            except ApiServerError as error:
                failure = error
                self._problem = error.problem
                if error.status == GONE or isinstance(error, WentBackError):
                    self._is_complete = False
                _log.warning(
                    "pod_watch_failed", cluster=self._cluster, reason=error.problem, relist=not self._is_complete
                )
            if failure is None and self._heard_at > before:
                failures = 0
                continue
            # A watch in which nothing was heard, ended well or not, is no reason to ask at once again.
            failures += 1
            await asyncio.sleep(self._pause(failures, failure.retry_after_seconds if failure else 0.0))

    def _pause(self, failures: int, at_least: float) -> float:
        limits = self._limits
        longest = min(limits.watch_retry_max_seconds, limits.watch_retry_min_seconds * 2.0 ** min(failures, 16))
        # Spread, so that a thousand watchers do not come back together.
        return max(at_least, limits.watch_retry_min_seconds, longest * self._jitter())

    async def _list(self) -> None:
        if self._table is not None:
            metrics.PLACEMENT_RELISTS.labels(self._cluster).inc()
        started, sliced = self._monotonic(), self._monotonic()
        table, token, pages = PodTable(max_pods=self._limits.max_pods), "", 0
        while True:
            query = {"limit": str(self._limits.page_pods)} | ({"continue": token} if token else {})
            data = await self._api.get(
                PODS, query, seconds=self._limits.page_seconds, max_bytes=self._limits.max_page_bytes
            )
            page = PodPage(data)
            del data
            for pod in page.pods():
                table.add(pod)
                if self._monotonic() - sliced > self._limits.slice_seconds:
                    await asyncio.sleep(0)
                    sliced = self._monotonic()
            # Every page is of the version of the first.
            table.version, token, pages = page.version, page.next_token, pages + 1
            if not token:
                break
        previous = self._table
        if previous is not None and table.version < previous.version:
            _log.warning("pod_list_went_back", cluster=self._cluster, version=table.version, was=previous.version)
        self._table, self._is_complete = table, True
        self._heard_at, self._problem = started, ""
        _log.info(
            "pods_listed",
            cluster=self._cluster,
            pods=len(table.index),
            pages=pages,
            version=str(table.version),
            seconds=round(self._monotonic() - started, 3),
        )

    async def _watch(self, table: PodTable | None) -> None:
        assert table is not None
        spread = 0.5 + self._jitter() / 2  # so that not all watches end together
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": str(table.version),
            "timeoutSeconds": str(max(1, int(self._limits.watch_seconds * spread))),
        }
        async with self._api.lines(PODS, query) as lines:
            await self._follow(table, lines)

    async def _follow(self, table: PodTable, lines: AsyncIterator[bytes]) -> None:
        stall = self._limits.stall_seconds
        sliced = self._monotonic()
        try:
            async with asyncio.timeout(stall) as bound:
                async for line in lines:
                    self._apply(table, line)
                    bound.reschedule(asyncio.get_running_loop().time() + stall)
                    self._heard_at, self._problem = self._monotonic(), ""
                    if self._heard_at - sliced > self._limits.slice_seconds:
                        await asyncio.sleep(0)
                        sliced = self._monotonic()
        except TimeoutError:
            raise ApiServerError(f"the watch was silent for {stall:g} s") from None

    def _apply(self, table: PodTable, line: bytes) -> None:
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            self._is_complete = False
            raise ApiServerError("an event of the watch is not JSON") from None
        kind, value = (event.get("type"), event.get("object")) if isinstance(event, dict) else (None, None)
        match kind:
            case "ADDED" | "MODIFIED" | "DELETED":
                # What cannot be read may be what matters: nothing is known for sure until the next list.
                self._is_complete = False
                table.change(read_pod(value), deleted=kind == "DELETED")
                self._is_complete = True
            case "BOOKMARK":
                table.advance(read_version(value.get("metadata") if isinstance(value, dict) else None))
            case "ERROR":
                raise _error_event(value)
            case _:
                self._is_complete = False
                raise ApiServerError(f"the watch has an event of an unknown type: {str(kind)[:40]!r}")


def _error_event(value: Any) -> ApiServerError:
    code = value.get("code") if isinstance(value, dict) else None
    return failure_of_status(code if isinstance(code, int) else 0, json.dumps(value).encode())


def _unavailable(diagnosis: str) -> AppError:
    return AppError(ErrorCode.UNAVAILABLE, "the inventory cannot be read at the moment; try again", diagnosis=diagnosis)
