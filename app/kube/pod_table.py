"""The pods of one cluster as of one resourceVersion: what a list gave, moved on by events.

Everything is changed in place, in constant time for each event, on the event loop; whoever decides by the index does
so without waiting and sees one state.
"""

from __future__ import annotations

from collections.abc import Iterable

from app.ca.impersonation import PlacementIndex
from app.identity.inventory import Workload
from app.kube.failures import ApiServerError
from app.kube.list_watch import WentBackError
from app.kube.pod_json import Pod


class PodTable:
    """An index and the version up to which it is complete."""

    def __init__(self, *, max_pods: int) -> None:
        self.index = PlacementIndex()
        self.version = 0
        self._max_pods = max_pods
        # Pods that a live look found newer than the events so far: events up to that version must not undo it.
        self._ahead: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.index)

    def add(self, pod: Pod) -> None:
        """A pod of the list from which the table is made."""
        if pod.workload.node:
            self._put(pod.workload)

    def change(self, pod: Pod, *, deleted: bool) -> None:
        """An event.

        Raises:
            WentBackError: when it is older than another before it.
        """
        self.advance(pod.version)
        workload = pod.workload
        if pod.version <= self._ahead.get(workload.key, 0):
            return
        if deleted:
            known = self.index.pod(workload.namespace, workload.name)
            # Not another pod that has taken over the name.
            if known is not None and known.uid == workload.uid:
                self.index.remove(workload.key)
        elif workload.node:
            self._put(workload)

    def advance(self, version: int) -> None:
        """Everything up to that version is known now.

        Raises:
            WentBackError: when more was known before.
        """
        if version < self.version:
            raise WentBackError(f"the resourceVersion went back from {self.version} to {version}")
        self.version = version
        if self._ahead and version >= max(self._ahead.values()):
            self._ahead.clear()

    def merge(self, pods: Iterable[Pod], version: int) -> None:
        """What a live look at some pods saw, at that version; nothing when the events are further already."""
        if version < self.version:
            return
        for pod in pods:
            if pod.workload.node:
                self._put(pod.workload)
                self._ahead[pod.workload.key] = version

    def _put(self, workload: Workload) -> None:
        self.index.put(workload)
        if len(self.index) > self._max_pods:
            raise ApiServerError(
                f"the cluster has more than {self._max_pods} pods; raise limits.kubernetes.max_pods if that is right"
            )
