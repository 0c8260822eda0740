"""Follows the keys of the issuers whose tokens RequestAuthentications believe: fetched, kept, handed to the snapshot.

Each place is asked once however many documents name it, refreshed in time, and asked again when a worker met a token
with a key id that nobody knows, at most so often. The last good keys are kept, also in the database across restarts
and for the other replicas, for a bounded time; keys that never could be had are absent, and tokens are refused for it.
No other key ever stands in.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Protocol

import structlog

from app.authority.policies.token_key_memory import KeptKeys, Keys, TokenKeyMemory
from app.errors import AppError
from app.limits import PolicyLimits, TokenLimits
from app.policy.document import REQUEST_AUTHENTICATION, parse_document
from app.policy.document_values import read_value
from app.policy.request_authentication import KeySource, RequestAuthentication

_log = structlog.get_logger(__name__)


class TokenKeyFetcher(Protocol):
    """Asks an issuer for its keys."""

    async def fetch(self, source: KeySource, *, timeout_seconds: float) -> Keys:
        """The public keys that can verify tokens; at least one.

        Raises:
            AppError: `UNAVAILABLE` or `INVALID` with a sentence for operators.
        """
        ...


class TokenKeyObserver(Protocol):
    """Hears how each fetch ended."""

    def keys_seen(self, place: str, *, age_seconds: float, error: str) -> None:
        """The keys of a place were had so long ago (since the start if never); `error` of this attempt, if any."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenKeyStatus:
    """How the keys of one place stand; `keys` is 0 while every token of it is refused, `error` of the last attempt."""

    place: str
    keys: int
    had_seconds_ago: float | None  # None: never
    error: str

    def to_json(self) -> dict[str, Any]:
        """What the API shows."""
        return {
            "place": self.place,
            "keys": self.keys,
            "hadSecondsAgo": self.had_seconds_ago,
            "error": self.error,
        }


@dataclass(slots=True)
class _Followed:
    """One place: what is known of it, and when it is asked next."""

    source: KeySource
    timeout_seconds: float
    since: float
    keys: Keys | None = None
    had_at: float = 0.0  # wall clock of the last good fetch
    tried_at: float = float("-inf")  # monotonic
    error: str = ""
    is_slow: bool = False  # it failed the last time, or took longer than is usual
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class TokenKeys:
    """Implements the publisher's `TokenKeySource` and the link's `TokenKeyHints`."""

    def __init__(
        self,
        fetcher: TokenKeyFetcher,
        memory: TokenKeyMemory,
        limits: TokenLimits,
        *,
        observer: TokenKeyObserver | None = None,
        wall_clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetcher = fetcher
        self._memory = memory
        self._limits = limits
        self._observer = observer
        self._wall_clock = wall_clock
        self._monotonic = monotonic
        self._named: dict[str, tuple[tuple[KeySource, float], ...]] = {}  # by document key
        self._followed: dict[str, _Followed] = {}
        self._stored: dict[str, KeptKeys] = {}
        self._saved_at: dict[str, float] = {}
        self._fetches = asyncio.Semaphore(limits.max_fetches)
        # Places that only cost time, which whoever writes a document can name many of, leave room for the others.
        self._slow_fetches = asyncio.Semaphore(max(1, limits.max_fetches // 2))
        self._changed = asyncio.Event()
        self.on_change: Callable[[], None] = lambda: None  # called when other keys are there

    async def load(self) -> None:
        """Read what was kept the last time.

        Raises:
            AppError: `UNAVAILABLE`.
        """
        self._stored = await self._memory.load()

    def take(self, documents: Mapping[str, Any]) -> None:
        """Documents changed (JSON by key, None: gone): follow what the RequestAuthentications among them name."""
        touched = False
        for key, value in documents.items():
            if not key.startswith(f"{REQUEST_AUTHENTICATION}/"):
                continue
            touched = True
            named = () if value is None else _sources_in(key, value)
            if named:
                self._named[key] = named
            else:
                self._named.pop(key, None)
        if touched:
            self._follow_named()

    def items(self) -> dict[str, Any]:
        """The keys of now for the snapshot, by `KeySource.id`; what is stale is not in it."""
        return {key: {"keys": list(found.keys or ())} for key, found in self._followed.items() if self._is_fresh(found)}

    def statuses(self) -> list[TokenKeyStatus]:
        """How the keys of each place stand, by place."""
        now = self._wall_clock()
        return [
            TokenKeyStatus(
                place=found.source.place,
                keys=len(found.keys or ()) if self._is_fresh(found) else 0,
                had_seconds_ago=round(max(0.0, now - found.had_at), 1) if found.had_at else None,
                error=found.error,
            )
            for found in sorted(self._followed.values(), key=lambda found: found.source.place)
        ]

    def hint(self, sources: Iterable[str]) -> None:
        """A worker wants newer keys of these (`KeySource.id`); asked at once unless that was just done."""
        now = self._monotonic()
        for source in sources:
            found = self._followed.get(source)
            if found is not None and now - found.tried_at >= self._limits.min_refetch_seconds:
                found.wake.set()

    async def run(self) -> None:
        """Follow for ever, each place by itself."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._changed.clear()
                for found in self._followed.values():
                    if found.task is None:
                        found.task = group.create_task(self._follow(found))
                await self._changed.wait()

    async def refresh(self, source_id: str) -> float:
        """Ask once; in how many seconds to ask again. Nothing here raises but a cancellation."""
        found = self._followed[source_id]
        async with self._slow_fetches if found.is_slow else nullcontext(), self._fetches:
            found.tried_at = self._monotonic()
            try:
                keys = await self._fetcher.fetch(found.source, timeout_seconds=found.timeout_seconds)
                error = ""
            except AppError as raised:
                keys, error = (), raised.diagnosis or raised.detail
            except Exception as raised:  # noqa: BLE001 - one issuer must not take the others' keys down
                keys, error = (), f"fetching failed: {type(raised).__name__}"
                _log.exception("token_keys_fetch_crashed", place=found.source.place)
            found.is_slow = bool(error) or self._monotonic() - found.tried_at > self._limits.fetch_seconds
        if error:
            self._failed(found, error)
            pause = self._limits.retry_seconds
        else:
            await self._had(source_id, found, keys)
            pause = self._limits.refresh_seconds
        if self._observer is not None:
            age = self._wall_clock() - (found.had_at or found.since)
            self._observer.keys_seen(found.source.place, age_seconds=max(0.0, age), error=error)
        return pause

    async def _follow(self, found: _Followed) -> None:
        while True:
            found.wake.clear()
            pause = await self.refresh(found.source.id)
            try:
                async with asyncio.timeout(pause):
                    await found.wake.wait()
            except TimeoutError:
                pass

    def _follow_named(self) -> None:
        wanted = self._wanted()
        if len(wanted) > self._limits.max_sources:
            _log.error("token_keys_too_many_places", places=len(wanted), bound=self._limits.max_sources)
            wanted = dict(list(wanted.items())[: self._limits.max_sources])
        for key in self._followed.keys() - wanted.keys():
            task = self._followed.pop(key).task
            if task is not None:
                task.cancel()
        for key, (source, seconds) in wanted.items():
            if key in self._followed:
                self._followed[key].timeout_seconds = seconds
                continue
            followed = _Followed(source, seconds, self._wall_clock())
            kept = self._stored.get(key)
            if kept is not None:
                followed.keys, followed.had_at = kept.keys, kept.had_at
            self._followed[key] = followed
        self._changed.set()

    def _wanted(self) -> dict[str, tuple[KeySource, float]]:
        """Every place with the longest time that a rule gives it, namespaces taking turns.

        So that no namespace can push the places of another over the bound, nor take its time away.
        """
        places: dict[str, dict[str, tuple[KeySource, float]]] = {}  # by namespace
        for key, named in sorted(self._named.items()):
            own = places.setdefault(key.split("/")[1], {})
            for source, said in named:
                seconds = said or self._limits.fetch_seconds
                own[source.id] = (source, max(seconds, own[source.id][1]) if source.id in own else seconds)
        wanted: dict[str, tuple[KeySource, float]] = {}
        for turn in zip_longest(*(own.values() for own in places.values())):
            for source, seconds in filter(None, turn):
                known = wanted.get(source.id)
                wanted[source.id] = (source, seconds if known is None else max(known[1], seconds))
        return wanted

    def _is_fresh(self, found: _Followed) -> bool:
        return found.keys is not None and self._wall_clock() - found.had_at <= self._limits.stale_seconds

    def _failed(self, found: _Followed, error: str) -> None:
        if error != found.error:
            _log.warning("token_keys_not_had", place=found.source.place, reason=error, kept=self._is_fresh(found))
        found.error = error
        if found.keys is not None and not self._is_fresh(found):
            found.keys = None
            _log.error("token_keys_too_old", place=found.source.place, bound_seconds=self._limits.stale_seconds)
            self.on_change()

    async def _had(self, source_id: str, found: _Followed, keys: Keys) -> None:
        changed = found.keys != keys
        found.keys, found.had_at, found.error = keys, self._wall_clock(), ""
        if changed:
            _log.info("token_keys_had", place=found.source.place, keys=[key.get("kid", "") for key in keys])
            self.on_change()
        # What did not change is stored again now and then, or it would look old after a restart.
        if changed or found.had_at - self._saved_at.get(source_id, 0.0) > self._limits.stale_seconds / 4:
            await self._save(source_id, found)

    async def _save(self, source_id: str, found: _Followed) -> None:
        try:
            await self._memory.keep(source_id, KeptKeys(found.keys or (), found.had_at), frozenset(self._followed))
            self._saved_at[source_id] = found.had_at
        except AppError as error:
            _log.warning("token_keys_not_saved", place=found.source.place, reason=error.detail)
        except Exception:  # noqa: BLE001 - keys serve from memory; nothing else must end because of this
            _log.exception("token_keys_save_crashed", place=found.source.place)


def _sources_in(key: str, value: Any) -> tuple[tuple[KeySource, float], ...]:
    try:
        found = read_value(parse_document(value, PolicyLimits()))
    except AppError as error:
        _log.error("token_keys_document_unreadable", document=key, reason=error.detail)
        return ()
    assert isinstance(found, RequestAuthentication)
    sources = ((rule.key_source, rule.timeout_seconds) for rule in found.rules)
    return tuple((source, seconds) for source, seconds in sources if source is not None)
