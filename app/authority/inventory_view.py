"""The inventory as issuing reads it: one immutable placement index, refreshed from the store.

Readers take one reference. Refreshing happens on a timer (`run`) and once more, live, before a request is
refused because its pod is not known: a pod may be newer than the last refresh, and a ztunnel that is refused
backs off for up to 150 seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from app.authority.ports import InventoryStore
from app.ca.impersonation import PlacementIndex
from app.errors import AppError, ErrorCode

_log = structlog.get_logger()


class InventoryView:
    """Holds the placement index of the newest inventory generation that could be read.

    `max_age_seconds` counts from the last read that succeeded; older data gives no rights (`UNAVAILABLE`).
    """

    def __init__(
        self,
        store: InventoryStore,
        *,
        refresh_seconds: float = 0.5,
        max_age_seconds: float = 60.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._refresh_seconds = refresh_seconds
        self._max_age_seconds = max_age_seconds
        self._monotonic = monotonic
        self._index: PlacementIndex | None = None
        self._generation = -1
        self._read_at = 0.0
        self._reading = asyncio.Lock()

    @property
    def generation(self) -> int:
        """The inventory generation of the current index; -1 before the first read."""
        return self._generation

    def index(self) -> PlacementIndex:
        """The current index.

        Raises:
            AppError: `UNAVAILABLE` when the inventory was never read, or not for too long.
        """
        age = self._monotonic() - self._read_at
        if self._index is None or age > self._max_age_seconds:
            raise AppError(
                ErrorCode.UNAVAILABLE,
                "the inventory cannot be read at the moment; try again",
                diagnosis=f"last read {age:.0f} s ago" if self._index is not None else "never read",
            )
        return self._index

    async def refresh(self) -> PlacementIndex:
        """Read the store now and return the index of what it says.

        Callers that come while a read is under way share the next one, so any number of them costs two reads.

        Raises:
            AppError: `UNAVAILABLE` when the store cannot be read.
        """
        asked_at = self._monotonic()
        async with self._reading:
            if self._index is None or self._read_at < asked_at:
                await self._read()
        return self.index()

    async def run(self) -> None:
        """Refresh for ever; a failing store is logged and asked again."""
        while True:
            try:
                await self.refresh()
            except AppError as error:
                _log.warning("inventory_refresh_failed", reason=error.detail, diagnosis=error.diagnosis)
            await asyncio.sleep(self._refresh_seconds)

    async def _read(self) -> None:
        started = self._monotonic()
        contents = await self._store.read_inventory(known_generation=self._generation)
        if contents is not None:
            # Tens of thousands of pods take longer than the event loop may stand still.
            self._index = await asyncio.to_thread(PlacementIndex.build, contents.workloads, contents.nodes)
            self._generation = contents.generation
        elif self._index is None:
            self._index = PlacementIndex.build(())
        self._read_at = started
