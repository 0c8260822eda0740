"""The placement of one cluster from a file: for a mesh whose machines change by hand, or by a tool that writes files.

The file never ages: who writes one says what is so until it is written anew. It is read again when it changes, also
through the symbolic links of a mounted config map. A file that cannot be read or understood changes nothing; the last
good one serves, and `describe` says so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import structlog

from app.authority.placement.placements import SourceState
from app.ca.impersonation import NodeCaller, PlacementIndex
from app.errors import AppError, ErrorCode
from app.identity.inventory_documents import parse_inventory
from app.identity.inventory_fields import ParsedInventory
from app.limits import Limits
from app.serving.documents_text import TextBounds, parse_documents

_log = structlog.get_logger(__name__)
_Stamp = tuple[int, int, int, int]


class InventoryFile:
    """An inventory document in a file: read when it has changed, and what was wrong with it last."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self._path = path
        self._limits = limits
        self._tried: _Stamp | None = None
        self._good: _Stamp | None = None
        self.problem = "it was not read yet"

    @property
    def is_current(self) -> bool:
        """Whether the file that is there now is the last good one."""
        return self._good is not None and self._tried == self._good

    @property
    def changed_at(self) -> datetime | None:
        """When the last good one was written, None before there was one."""
        return None if self._good is None else datetime.fromtimestamp(self._good[0] / 1e9, UTC)

    def read(self) -> ParsedInventory | None:
        """What the file says, None when it is the one that was tried last; to be called in a thread.

        Raises:
            AppError: when it cannot be read or understood; `problem` says it, too.
        """
        try:
            return self._read()
        except OSError as error:
            self._fail(f"cannot be read: {error.strerror}")
            raise AppError(ErrorCode.UNAVAILABLE, self.problem) from None
        except AppError as error:
            self._fail(error.detail)
            raise

    def _fail(self, problem: str) -> None:
        if problem != self.problem:
            _log.warning("inventory_file_failed", file=str(self._path), reason=problem, keeps=self._good is not None)
        self.problem = problem

    def _read(self) -> ParsedInventory | None:
        status = self._path.stat()
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev)
        if stamp == self._tried:
            return None
        max_bytes = self._limits.http.max_import_bytes
        with self._path.open("rb") as file:
            data = file.read(max_bytes + 1)
        self._tried = stamp
        bounds = TextBounds.of(self._limits.policy, max_bytes=max_bytes)
        documents = parse_documents(data, is_json=self._path.suffix == ".json", bounds=bounds)
        value = documents[0] if len(documents) == 1 else {"apiVersion": "v1", "kind": "List", "items": documents}
        limits = self._limits.administration
        parsed = parse_inventory(value, max_items=limits.max_inventory_items, max_errors=limits.max_reported_errors)
        self._good, self.problem = stamp, ""
        _log.info(
            "inventory_file_read",
            file=str(self._path),
            workloads=len(parsed.workloads),
            services=len(parsed.services),
        )
        return parsed


class FilePlacement:
    """Implements `app.authority.placement.placements.PlacementSource`; `bans` are of the cluster, from the database."""

    def __init__(
        self,
        path: Path,
        limits: Limits,
        *,
        bans: Callable[[], AbstractSet[str]] = frozenset,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._limits = limits
        self._file = InventoryFile(path, limits)
        self._bans = bans
        self._monotonic = monotonic
        self._index: PlacementIndex | None = None
        self._banned_in_file: frozenset[str] = frozenset()
        self._read_at = 0.0
        self._reading = asyncio.Lock()

    def index(self) -> PlacementIndex:
        """What the last good file says.

        Raises:
            AppError: `UNAVAILABLE` when there was none yet.
        """
        if self._index is None:
            raise AppError(
                ErrorCode.UNAVAILABLE,
                "the inventory cannot be read at the moment; try again",
                diagnosis=f"{self._path}: {self._file.problem}",
            )
        self._index.ban(self._banned_in_file | self._bans())
        return self._index

    async def look_again(self, caller: NodeCaller) -> PlacementIndex:  # noqa: ARG002 - one read has everything
        """Read the file if it has changed."""
        await self.refresh()
        return self.index()

    def describe(self) -> SourceState:
        """How it stands; its version is the time of the file's last change."""
        changed = self._file.changed_at
        usable, problem = self._index is not None, self._file.problem
        try:
            self.index()
        except AppError as error:
            usable, problem = False, problem or error.diagnosis
        return SourceState(
            kind="file",
            version="" if changed is None else changed.isoformat(timespec="seconds"),
            age_seconds=None if self._index is None else self._monotonic() - self._read_at,
            workloads=0 if self._index is None else len(self._index),
            usable=usable,
            problem=problem,
        )

    async def run(self) -> None:
        """Look for a changed file for ever."""
        while True:
            await self.refresh()
            await asyncio.sleep(self._limits.certificate.inventory_refresh_seconds)

    async def refresh(self) -> None:
        """Read the file unless it is the one that was tried last."""
        async with self._reading:
            with suppress(AppError):  # the file remembers why
                await asyncio.to_thread(self._read)

    def _read(self) -> None:
        parsed = self._file.read()
        if parsed is not None:
            self._banned_in_file = frozenset(node.name for node in parsed.nodes.values() if node.banned)
            self._index = PlacementIndex.build(parsed.workloads.values())
        if self._file.is_current:
            self._read_at = self._monotonic()
