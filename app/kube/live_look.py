"""One live look at the pods of one node, before somebody there is refused: a pod may be newer than the watch.

A refused node proxy may ask again as fast as it can, and a thousand may be refused at once. So looks at one node are
shared, have a pause between them, and only so many are under way at once.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

from app.ca.impersonation import NodeCaller
from app.errors import AppError, ErrorCode
from app.kube.access import ApiServer
from app.kube.failures import NOT_FOUND, ApiServerError
from app.kube.object_page import ObjectPage
from app.kube.pod_json import Pod, read_pod
from app.limits import KubernetesLimits
from app.telemetry import metrics

_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_MAX_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Seen:
    """The pods of one node, at one version."""

    pods: tuple[Pod, ...]
    version: int


class LiveLook:
    """Looks at nodes of one cluster."""

    def __init__(
        self,
        api: ApiServer,
        limits: KubernetesLimits,
        *,
        cluster: str,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._limits = limits
        self._cluster = cluster
        self._monotonic = monotonic
        self._running: dict[tuple[str, str, str], asyncio.Task[Seen | None]] = {}
        self._looked_at: OrderedDict[tuple[str, str, str], float] = OrderedDict()

    async def __call__(self, caller: NodeCaller) -> Seen | None:
        """The pods of the caller's node; None when its node is not known.

        Who comes too soon after the last look at that node waits for the next one.

        Raises:
            AppError: `UNAVAILABLE` when the API server does not answer in time, or too many looks are under way.
        """
        key = ("", "", caller.node_name) if caller.node_name else (caller.namespace, caller.pod_name, "")
        task = self._running.get(key)
        if task is None:
            if len(self._running) >= self._limits.max_lookups:
                self._count("overloaded")
                raise AppError(
                    ErrorCode.UNAVAILABLE,
                    "the inventory cannot be read at the moment; try again",
                    diagnosis=f"{len(self._running)} live looks at pods of cluster {self._cluster} are under way",
                )
            since = self._monotonic() - self._looked_at.get(key, float("-inf"))
            task = asyncio.create_task(self._look(caller, after=self._limits.lookup_pause_seconds - since))
            self._running[key] = task
            task.add_done_callback(lambda _: self._done(key))
        try:
            # Shielded: others wait for it too.
            return await asyncio.shield(task)
        except ApiServerError as failure:
            raise failure.as_app_error() from failure

    def _done(self, key: tuple[str, str, str]) -> None:
        task = self._running.pop(key)
        if task.cancelled():
            return
        self._count("failed" if task.exception() is not None else "done")
        self._looked_at[key] = self._monotonic()
        self._looked_at.move_to_end(key)
        while len(self._looked_at) > _MAX_REMEMBERED:
            self._looked_at.popitem(last=False)

    def _count(self, outcome: str) -> None:
        metrics.PLACEMENT_LOOKUPS.labels(self._cluster, outcome).inc()

    async def _look(self, caller: NodeCaller, *, after: float) -> Seen | None:
        if after > 0:
            await asyncio.sleep(after)
        node = caller.node_name or await self._node_of(caller)
        if not _NAME.fullmatch(node):
            return None
        pods: list[Pod] = []
        query = {"fieldSelector": f"spec.nodeName={node}", "limit": str(self._limits.page_pods)}
        token = ""
        while True:
            data = await self._api.get("/api/v1/pods", query | ({"continue": token} if token else {}))
            page = ObjectPage(data, read_pod, word="pods")
            pods.extend(pod for pod in page.items() if pod.workload.node == node)
            token = page.next_token
            if not token:
                return Seen(tuple(pods), page.version)
            if len(pods) > self._limits.max_pods:
                raise ApiServerError(f"node {node} has more than {self._limits.max_pods} pods")

    async def _node_of(self, caller: NodeCaller) -> str:
        """Where the caller's pod runs; empty when there is no such pod or it runs nowhere yet."""
        if not _NAME.fullmatch(caller.namespace) or not _NAME.fullmatch(caller.pod_name):
            return ""
        try:
            data = await self._api.get(f"/api/v1/namespaces/{quote(caller.namespace)}/pods/{quote(caller.pod_name)}")
        except ApiServerError as failure:
            if failure.status == NOT_FOUND:
                return ""
            raise
        return read_pod(_decoded(data)).workload.node


def _decoded(data: bytes) -> object:
    try:
        value: object = json.loads(data)
    except (ValueError, RecursionError):
        raise ApiServerError("a pod is not JSON") from None
    return value
