"""A waypoint, a sidecar and their clients, each of them the real Envoy: for the demo, the tests and the benchmarks.

`Waypoint` listens for HBONE (mutual TLS, HTTP/2 CONNECT) and enforces; `Sidecar` takes plain mutual TLS;
`HboneClient` gives a loopback URL for each tunnel, so that any HTTP client speaks to the mesh through it.

Example:
    async with (
        Waypoint(WaypointOptions(credentials=waypoint, enforcement=ExtAuthz(address="127.0.0.1:9191")), tmp) as proxy,
        HboneClient({"web": Tunnel(credentials=web, proxy=proxy.address, destination="10.96.0.10:80")}, tmp) as client,
    ):
        response = await http.get(client.url("web") + "/path")
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.demo.envoy import Envoy
from app.demo.envoy_parts import LOOPBACK, Credentials
from app.demo.proxy_config import (
    CONNECT_TERMINATE,
    INBOUND,
    Enforcement,
    ExtAuthz,
    NativeRbac,
    Tunnel,
    WaypointOptions,
    client_config,
    sidecar_config,
    waypoint_config,
)

__all__ = [
    "Credentials",
    "Enforcement",
    "ExtAuthz",
    "HboneClient",
    "NativeRbac",
    "Sidecar",
    "Tunnel",
    "Waypoint",
    "WaypointOptions",
]

ACCESS_LOG_SECONDS = 5.0


class _EnforcingProxy(Envoy):
    """An Envoy that asks or decides, and keeps an access log of what came out."""

    listener: str

    def __init__(self, name: str, config: dict[str, Any], directory: Path, access_log: Path, concurrency: int) -> None:
        super().__init__(name, config, directory, concurrency=concurrency)
        self._access_log = access_log

    @property
    def address(self) -> str:
        """The `host:port` that clients connect to."""
        return f"{LOOPBACK}:{self.ports[self.listener]}"

    def requests(self) -> list[dict[str, Any]]:
        """The access log so far: `method`, `path`, `status`, `details`, `peer` and `decision` of each request."""
        if not self._access_log.exists():
            return []
        lines = self._access_log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.endswith("}")]

    async def wait_for_requests(self, count: int) -> list[dict[str, Any]]:
        """The access log once it has at least `count` rows; Envoy writes it a moment after the answer.

        Raises:
            TimeoutError: When they do not come within five seconds.
        """
        async with asyncio.timeout(ACCESS_LOG_SECONDS):
            while len(rows := self.requests()) < count:  # noqa: ASYNC110 - a file of another process has no event
                await asyncio.sleep(0.02)
        return rows


class Waypoint(_EnforcingProxy):
    """An Istio waypoint's shape in plain Envoy."""

    listener = CONNECT_TERMINATE

    def __init__(self, options: WaypointOptions, directory: Path, *, name: str = "waypoint") -> None:
        access_log = directory / f"{name}.access.jsonl"
        super().__init__(name, waypoint_config(options, access_log), directory, access_log, options.concurrency)


class Sidecar(_EnforcingProxy):
    """A proxy that ends mutual TLS on the listener that enforces: `source.principal` is the peer."""

    listener = INBOUND

    def __init__(self, options: WaypointOptions, directory: Path, *, name: str = "sidecar") -> None:
        access_log = directory / f"{name}.access.jsonl"
        super().__init__(name, sidecar_config(options, access_log), directory, access_log, options.concurrency)


class HboneClient(Envoy):
    """The client side of any number of tunnels in one Envoy."""

    def __init__(
        self, tunnels: Mapping[str, Tunnel], directory: Path, *, name: str = "client", concurrency: int = 1
    ) -> None:
        super().__init__(name, client_config(tunnels), directory, concurrency=concurrency)

    def url(self, tunnel: str) -> str:
        """`http://127.0.0.1:<port>` of a tunnel."""
        return f"http://{LOOPBACK}:{self.ports[tunnel]}"

    def port(self, tunnel: str) -> int:
        """The port of a tunnel, for clients that speak bytes."""
        return self.ports[tunnel]
