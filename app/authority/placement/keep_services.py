"""Keeps the services of the inventory as a source has them: only what differs is written, as one change.

Several replicas may follow the same cluster. Each compares what it knows with what is stored, and writes only when it
knows at least as much as whoever wrote last (by resourceVersion): one that lags behind undoes nothing. What a source
does not know completely is left as it is; that a source is too old removes nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import structlog

from app.authority.actor import Actor
from app.authority.placement.service_source import KnownServices, ServiceSource, ServicesState
from app.authority.ports import Clock
from app.authority.records import Outcome
from app.authority.store import Store, Transaction
from app.errors import AppError, ErrorCode
from app.identity.inventory import Service
from app.ledger.entry import EntryKind, LedgerEntry
from app.limits import KubernetesLimits

_log = structlog.get_logger(__name__)
_LOOK_AGAIN_SECONDS = 300.0  # whatever happened: what is stored is compared with what is known
_RETRY_SECONDS = 5.0
_WRITE_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class _Stored:
    """The services as they are in the store, of one generation."""

    generation: int
    services: Mapping[str, Service]


class KeepServices:
    """Follows one source for ever."""

    def __init__(
        self,
        store: Store,
        source: ServiceSource,
        *,
        clock: Clock,
        limits: KubernetesLimits,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._source = source
        self._clock = clock
        self._limits = limits
        self._monotonic = monotonic
        self._stored: _Stored | None = None
        self._behind_since: dict[str, float] = {}  # by registry
        self._problem = ""

    def describe(self) -> ServicesState:
        """How the source stands, and whether what it knows could be stored."""
        state = self._source.describe()
        if not self._problem:
            return state
        return ServicesState(
            kind=state.kind,
            age_seconds=state.age_seconds,
            max_age_seconds=state.max_age_seconds,
            services=state.services,
            is_fresh=False,
            problem="; ".join(filter(None, (self._problem, state.problem))),
            left_out=state.left_out,
        )

    async def run(self) -> None:
        """Store what changed, a moment after it did, so that many changes are one."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._patience):
                    await self._source.changed()
            await asyncio.sleep(self._limits.services_gather_seconds)
            try:
                await self.keep()
                self._problem = ""
            except AppError as error:
                if error.detail != self._problem:
                    _log.warning("services_not_stored", reason=error.detail)
                self._problem = error.detail

    @property
    def _patience(self) -> float:
        """How long nothing may change until it is looked again all the same."""
        if self._problem:
            return _RETRY_SECONDS
        return self._limits.services_settle_seconds if self._behind_since else _LOOK_AGAIN_SECONDS

    async def keep(self) -> int:
        """Make what is stored be as the source knows it; how many services were written or removed.

        Raises:
            AppError: when the store does not answer.
        """
        written = 0
        for registry, known in self._source.known().items():
            for _ in range(_WRITE_ATTEMPTS):
                count = await self._keep(registry, known)
                if count is not None:
                    written += count
                    break
                self._stored = None  # somebody else wrote meanwhile: look again
            else:
                raise AppError(ErrorCode.CONFLICT, "others write services all the time; trying again in a moment")
        return written

    async def _keep(self, registry: str, known: KnownServices) -> int | None:
        """How many services of a registry were written, None when the store had moved on."""
        stored = await self._read()
        changes, outcomes = _difference(registry, stored.services, known.services)
        if not changes:
            self._behind_since.pop(registry, None)
            return 0
        may_take_over = self._may_take_over(registry)

        def work(transaction: Transaction) -> int | None:
            transaction.lock()
            rows = transaction.inventory
            if rows.services_generation() != stored.generation:
                return None
            if known.version is not None:
                if known.version < rows.seen_version(registry) and not may_take_over:
                    return -1
                rows.put_seen_version(registry, known.version)
            generation = rows.change(nodes={}, workloads={}, services=changes)
            transaction.record(self._entry(stored.generation, generation, outcomes))
            return generation

        generation = await self._store.write(work)
        if generation is None:
            return None
        if generation < 0:
            self._behind_since.setdefault(registry, self._monotonic())
            return 0
        self._behind_since.pop(registry, None)
        self._stored = _Stored(generation, _changed(stored.services, changes))
        counts = {outcome.value: count for outcome, count in outcomes.items()}
        _log.info("services_stored", registry=registry, generation=generation, **counts)
        return len(changes)

    def _may_take_over(self, registry: str) -> bool:
        """Whether it was behind for so long that versions must have gone back: a cluster restored from a backup."""
        since = self._behind_since.get(registry)
        return since is not None and self._monotonic() - since >= self._limits.services_settle_seconds

    async def _read(self) -> _Stored:
        known = self._stored

        def work(transaction: Transaction) -> _Stored:
            rows = transaction.inventory
            generation = rows.services_generation()
            if known is not None and known.generation == generation:
                return known
            return _Stored(generation, rows.services())

        self._stored = await self._store.read(work)
        return self._stored

    def _entry(self, before: int, after: int, outcomes: Counter[Outcome]) -> LedgerEntry:
        return LedgerEntry(
            kind=EntryKind.ADMIN_ACT,
            time=self._clock.now(),
            actor=Actor.system().label,
            subject="inventory",
            detail={
                "act": "inventory.follow",
                "reason": f"services from {self._source.describe().kind}",
                "before": before,
                "after": after,
                "services": {outcome.value: count for outcome, count in outcomes.items()},
            },
        )


def _difference(
    registry: str, stored: Mapping[str, Service], known: Mapping[str, Service]
) -> tuple[dict[str, Service | None], Counter[Outcome]]:
    changes: dict[str, Service | None] = {}
    outcomes: Counter[Outcome] = Counter()
    for key, service in known.items():
        present = stored.get(key)
        if present != service:
            changes[key] = service
            outcomes[Outcome.CREATED if present is None else Outcome.CONFIGURED] += 1
    for key, service in stored.items():
        if service.registry == registry and key not in known:
            changes[key] = None
            outcomes[Outcome.DELETED] += 1
    return changes, outcomes


def _changed(stored: Mapping[str, Service], changes: Mapping[str, Service | None]) -> dict[str, Service]:
    return {
        **{key: service for key, service in stored.items() if key not in changes},
        **{key: service for key, service in changes.items() if service is not None},
    }
