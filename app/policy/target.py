"""Where a request goes and which proxy enforces it: what policies attach to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

_NO_LABELS: Mapping[str, str] = MappingProxyType({})


class PointKind(StrEnum):
    """The kinds of proxy that enforce a policy; each attaches and matches a little differently."""

    SIDECAR = "sidecar"
    WAYPOINT = "waypoint"
    GATEWAY = "gateway"
    ZTUNNEL = "ztunnel"


@dataclass(frozen=True, slots=True)
class ServiceRef:
    """A service that the proxy handles. `registry` is `Kubernetes` (Service) or `External` (ServiceEntry)."""

    namespace: str
    name: str
    registry: str = "Kubernetes"


@dataclass(frozen=True, slots=True)
class Target:
    """The enforcing proxy and what stands behind it.

    Hashable, so that the rule table can remember which policies attach to it; `labels` is therefore a sorted
    tuple of pairs.
    """

    kind: PointKind
    namespace: str
    labels: tuple[tuple[str, str], ...] = ()
    services: tuple[ServiceRef, ...] = field(default=())
    gateway_name: str = ""
    gateway_class: str = ""

    @property
    def label_map(self) -> Mapping[str, str]:
        """The labels as a mapping."""
        return dict(self.labels) if self.labels else _NO_LABELS
