"""The JSON of the inventory; see `app.rest.schemas`."""

from __future__ import annotations

from datetime import datetime

from app.rest.schemas import Shape


class InventoryChangeShape(Shape):
    """How many items of each kind met which outcome."""

    generation: int
    nodes: dict[str, int]
    workloads: dict[str, int]
    services: dict[str, int]
    dry_run: bool
    lease_until: datetime | None = None


class LeaseShape(Shape):
    """Until when whoever pushes the inventory of a cluster promised to come again; null: there is no promise."""

    cluster: str
    lease_until: datetime | None


class WorkloadShape(Shape):
    """A workload on a node."""

    namespace: str
    name: str
    service_account: str
    node: str
    uid: str
    phase: str
    addresses: list[str]
    labels: dict[str, str]
    cluster: str


class ServiceShape(Shape):
    """A service and its addresses."""

    namespace: str
    name: str
    registry: str
    hosts: list[str]
    addresses: list[str]
    ports: list[int]
    labels: dict[str, str]


class NodeShape(Shape):
    """A machine; a banned one gets no certificates."""

    name: str
    banned: bool
    cluster: str


class InventoryShape(Shape):
    """Everything that runs where. PUT takes the same shape without the generation."""

    generation: int
    nodes: list[NodeShape]
    workloads: list[WorkloadShape]
    services: list[ServiceShape]
