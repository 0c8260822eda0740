"""What runs where: nodes, workloads, services and their addresses.

Plain values, parsed once at the edge. Impersonation reads workloads (may this node proxy ask for that
identity?), decisions read services (where does this request really go?).
"""

from __future__ import annotations

from dataclasses import dataclass

LOCAL_CLUSTER = ""  # the cluster of whatever names none


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A pod, or whatever has its own service account on a node.

    `uid` is the pod UID that a bound token names; empty means that it is not known and never matches a token
    that carries one. `phase` is Kubernetes' pod phase; a `Failed` workload gives no right to its identity.
    `cluster` is the id of the cluster it runs in, empty for the local one.
    """

    namespace: str
    name: str
    service_account: str
    node: str
    uid: str = ""
    phase: str = "Running"
    addresses: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    cluster: str = LOCAL_CLUSTER

    @property
    def key(self) -> str:
        """`<namespace>/<name>`, in another cluster `<cluster>/<namespace>/<name>`; unique among workloads."""
        return f"{self.cluster}/{self.namespace}/{self.name}" if self.cluster else f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A Kubernetes Service or an Istio ServiceEntry, by the addresses at which proxies reach it.

    `addresses` are virtual IPs without a port; `ports` the service ports (empty means every port).
    `registry` is `Kubernetes` or `External`.
    """

    namespace: str
    name: str
    registry: str = "Kubernetes"
    hosts: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> str:
        """`<registry>/<namespace>/<name>`, unique among services."""
        return f"{self.registry}/{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine that runs workloads; `banned` stops issuing to its node proxy at once.

    `cluster` is the id of the cluster it belongs to. A ban that names none holds for every node of that name.
    """

    name: str
    banned: bool = False
    cluster: str = LOCAL_CLUSTER

    @property
    def key(self) -> str:
        """The name, in another cluster `<cluster>/<name>`; unique among nodes."""
        return f"{self.cluster}/{self.name}" if self.cluster else self.name
