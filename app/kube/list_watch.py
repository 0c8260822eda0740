"""Follows all objects of one resource of an API server: a paged list, then a watch from there on.

Follows the Kubernetes API concepts for "efficient detection of changes": `limit`/`continue`, `resourceVersion`,
`allowWatchBookmarks`. It lists again when the server says that the version is gone (410), when a version goes back
(an API server or an etcd that was restored), when an event cannot be read, and when watches open but say nothing for
long: while nothing moves its version, an API server sends no bookmarks either. Meanwhile the last good table serves;
how old it may be is the business of whoever reads it.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import structlog

from app.kube.access import ApiServer
from app.kube.failures import GONE, ApiServerError, failure_of_status
from app.kube.object_page import ObjectPage, Versioned, read_version
from app.limits import KubernetesLimits

_log = structlog.get_logger(__name__)

T = TypeVar("T", bound=Versioned)
Item_contra = TypeVar("Item_contra", bound=Versioned, contravariant=True)


class WentBackError(ApiServerError):
    """A resourceVersion was older than one that was seen before: what is known is not what the cluster has."""


class SilentError(ApiServerError):
    """A watch opened, and nothing was heard in it for longer than `stall_seconds`."""


class Table(Protocol[Item_contra]):
    """What is known of the objects; `version` is the resourceVersion up to which it is complete."""

    version: int

    def __len__(self) -> int:
        """How many objects are known."""
        ...

    def add(self, item: Item_contra) -> None:
        """An object of the list from which the table is made."""
        ...

    def change(self, item: Item_contra, *, deleted: bool) -> None:
        """An event.

        Raises:
            WentBackError: when it is older than another before it.
        """
        ...

    def advance(self, version: int) -> None:
        """Everything up to that version is known now.

        Raises:
            WentBackError: when more was known before.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource(Generic[T]):
    """What is followed: where it is, how its objects are called and read, and how often it was listed again."""

    path: str
    word: str  # plural: `pods`
    read: Callable[[Any], T]
    on_relist: Callable[[], None] = lambda: None


TableT = TypeVar("TableT", bound=Table[Any])


class ListWatch(Generic[T, TableT]):
    """Keeps one table up to date. `heard_at` is monotonic: the last list, event or bookmark."""

    def __init__(
        self,
        api: ApiServer,
        limits: KubernetesLimits,
        resource: Resource[T],
        make_table: Callable[[], TableT],
        *,
        cluster: str,
        monotonic: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_change` is called, without being waited for, after a list and after each event."""
        self._api = api
        self._limits = limits
        self._resource = resource
        self._make_table = make_table
        self._cluster = cluster
        self._monotonic = monotonic
        self._jitter = jitter
        self._on_change = on_change
        self._is_complete = False  # whether the table can be moved on by events
        self.table: TableT | None = None
        self.heard_at = 0.0
        self.problem = f"the {resource.word} were not listed yet"

    async def run(self) -> None:
        """List and watch for ever; what fails is logged and tried again, more and more slowly."""
        failures = 0
        while True:
            before = self.heard_at
            try:
                if self.table is None or not self._is_complete:
                    await self._list()
                await self._watch(self.table)
                failure: ApiServerError | None = None
            except ApiServerError as error:
                failure = error
                self.problem = error.problem
                if error.status == GONE or isinstance(error, WentBackError):
                    self._is_complete = False
                _log.warning(
                    "watch_failed",
                    resource=self._resource.word,
                    cluster=self._cluster,
                    reason=error.problem,
                    relist=not self._is_complete,
                )
            if failure is None and self.heard_at > before:
                failures = 0
                continue
            # A watch in which nothing was heard, ended well or not, is no reason to ask at once again.
            # One that was listened to for long was not in haste either.
            failures = 1 if isinstance(failure, SilentError) else failures + 1
            await asyncio.sleep(self._pause(failures, failure.retry_after_seconds if failure else 0.0))

    def _pause(self, failures: int, at_least: float) -> float:
        limits = self._limits
        longest = min(limits.watch_retry_max_seconds, limits.watch_retry_min_seconds * 2.0 ** min(failures, 16))
        # Spread, so that a thousand watchers do not come back together.
        return max(at_least, limits.watch_retry_min_seconds, longest * self._jitter())

    async def _list(self) -> None:
        if self.table is not None:
            self._resource.on_relist()
        started, sliced = self._monotonic(), self._monotonic()
        table, token, pages = self._make_table(), "", 0
        while True:
            query = {"limit": str(self._limits.page_pods)} | ({"continue": token} if token else {})
            data = await self._api.get(
                self._resource.path, query, seconds=self._limits.page_seconds, max_bytes=self._limits.max_page_bytes
            )
            page = ObjectPage(data, self._resource.read, word=self._resource.word)
            del data
            for item in page.items():
                table.add(item)
                if self._monotonic() - sliced > self._limits.slice_seconds:
                    await asyncio.sleep(0)
                    sliced = self._monotonic()
            # Every page is of the version of the first.
            table.version, token, pages = page.version, page.next_token, pages + 1
            if not token:
                break
        previous = self.table
        if previous is not None and table.version < previous.version:
            _log.warning(
                "list_went_back",
                resource=self._resource.word,
                cluster=self._cluster,
                version=table.version,
                was=previous.version,
            )
        self.table, self._is_complete = table, True
        self.heard_at, self.problem = started, ""
        self._on_change()
        _log.info(
            "listed",
            resource=self._resource.word,
            cluster=self._cluster,
            objects=len(table),
            pages=pages,
            version=str(table.version),
            seconds=round(self._monotonic() - started, 3),
        )

    async def _watch(self, table: TableT | None) -> None:
        assert table is not None
        spread = 0.5 + self._jitter() / 2  # so that not all watches end together
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": str(table.version),
            "timeoutSeconds": str(max(1, int(self._limits.watch_seconds * spread))),
        }
        async with self._api.lines(self._resource.path, query) as lines:
            try:
                await self._follow(table, lines)
            finally:
                # Not after a watch that did not open: when an API server comes back, nobody should list for that alone.
                if self._monotonic() - self.heard_at > self._limits.relist_seconds:
                    self._is_complete = False

    async def _follow(self, table: TableT, lines: AsyncIterator[bytes]) -> None:
        stall = self._limits.stall_seconds
        sliced = self._monotonic()
        try:
            async with asyncio.timeout(stall) as bound:
                async for line in lines:
                    self._apply(table, line)
                    bound.reschedule(asyncio.get_running_loop().time() + stall)
                    self.heard_at, self.problem = self._monotonic(), ""
                    if self.heard_at - sliced > self._limits.slice_seconds:
                        await asyncio.sleep(0)
                        sliced = self._monotonic()
        except TimeoutError:
            raise SilentError(f"the watch was silent for {stall:g} s") from None

    def _apply(self, table: TableT, line: bytes) -> None:
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
                table.change(self._resource.read(value), deleted=kind == "DELETED")
                self._is_complete = True
                self._on_change()
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
