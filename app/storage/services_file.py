"""The services of the inventory from a file, read again when it changes.

An inventory document, as a placement may come from (and from the same file): what it says of nodes and pods is not
looked at here. A file that cannot be read or understood changes nothing; the last good one holds, and `describe` says
so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from app.authority.placement.service_source import KnownServices, ServicesState
from app.errors import AppError
from app.identity.inventory import Service
from app.limits import Limits
from app.storage.inventory_file import InventoryFile

_REGISTRIES = ("Kubernetes", "External")


class FileServices:
    """Implements `app.authority.placement.service_source.ServiceSource`."""

    def __init__(self, path: Path, limits: Limits, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._file = InventoryFile(path, limits)
        self._refresh_seconds = limits.certificate.inventory_refresh_seconds
        self._monotonic = monotonic
        self._services: dict[str, dict[str, Service]] | None = None
        self._read_at = 0.0
        self._changed = asyncio.Event()

    def known(self) -> Mapping[str, KnownServices]:
        """What the last good file says. One without any service is not believed: it was written for its pods."""
        if self._services is None or not any(self._services.values()):
            return {}
        return {registry: KnownServices(services) for registry, services in self._services.items()}

    async def changed(self) -> None:
        """Return when another file was read since the last call returned."""
        await self._changed.wait()
        self._changed.clear()

    def describe(self) -> ServicesState:
        """How it stands; a file never ages."""
        services, problem = self._services, self._file.problem
        if services is not None and not any(services.values()):
            problem = problem or "it names no service at all, which is not believed"
        return ServicesState(
            kind="file",
            age_seconds=None if services is None else self._monotonic() - self._read_at,
            services=0 if services is None else sum(map(len, services.values())),
            is_fresh=services is not None and not problem,
            problem=problem,
        )

    async def run(self) -> None:
        """Look for a changed file for ever."""
        while True:
            await self.refresh()
            await asyncio.sleep(self._refresh_seconds)

    async def refresh(self) -> None:
        """Read the file unless it is the one that was tried last."""
        try:
            parsed = await asyncio.to_thread(self._file.read)
        except AppError:
            return  # the file remembers why
        if self._file.is_current:
            self._read_at = self._monotonic()
        if parsed is None:
            return
        self._services = {
            registry: {key: service for key, service in parsed.services.items() if service.registry == registry}
            for registry in _REGISTRIES
        }
        self._changed.set()
