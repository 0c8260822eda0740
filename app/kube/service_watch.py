"""The services of the local cluster: a watch of its Services, and of Istio's ServiceEntries where it has such.

Headless Services and those without a selector are services like others: what counts is the addresses that proxies see,
and a Service without one is found by none. Endpoints are not read: requests to the address of a pod are decided by the
policies of the proxy itself.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from functools import partial

import structlog

from app.authority.placement.service_source import KnownServices, ServicesState
from app.kube.access import ApiServer
from app.kube.failures import NOT_FOUND, ApiServerError
from app.kube.list_watch import ListWatch, Resource
from app.kube.service_table import ServiceTable, WatchedService, read_service
from app.limits import KubernetesLimits

_log = structlog.get_logger(__name__)
SERVICES = "/api/v1/services"
SERVICE_ENTRIES = "/apis/networking.istio.io/v1/serviceentries"
_KUBERNETES, _EXTERNAL = "Kubernetes", "External"
_MAX_SHOWN = 3


class ServiceWatch:
    """Implements `app.authority.placement.service_source.ServiceSource`."""

    def __init__(
        self,
        api: ApiServer,
        limits: KubernetesLimits,
        *,
        cluster: str,
        monotonic: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._api = api
        self._limits = limits
        self._cluster = cluster
        self._monotonic = monotonic
        self._changed = asyncio.Event()
        self._has_entries = True  # until the API server says that it knows no such kind

        def watch(path: str, word: str, kind: str) -> ListWatch[WatchedService, ServiceTable]:
            return ListWatch(
                api,
                limits,
                Resource(path=path, word=word, read=partial(read_service, kind)),
                lambda: ServiceTable(max_services=limits.max_services),
                cluster=cluster,
                monotonic=monotonic,
                jitter=jitter,
                on_change=self._changed.set,
            )

        self._watches = {
            _KUBERNETES: watch(SERVICES, "services", "Service"),
            _EXTERNAL: watch(SERVICE_ENTRIES, "service entries", "ServiceEntry"),
        }

    async def run(self) -> None:
        """List and watch for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watches[_KUBERNETES].run())
            group.create_task(self._follow_entries())

    async def _follow_entries(self) -> None:
        """Wait until the API server knows ServiceEntries, then watch them."""
        while True:
            try:
                await self._api.get(SERVICE_ENTRIES, {"limit": "1"})
            except ApiServerError as error:
                if error.status == NOT_FOUND and self._has_entries:
                    self._has_entries = False
                    _log.info("no_service_entries", cluster=self._cluster)
                if error.status == NOT_FOUND:
                    await asyncio.sleep(self._limits.watch_seconds)
                    continue
            break  # whatever else is wrong, the watch says so, and tries again
        self._has_entries = True
        await self._watches[_EXTERNAL].run()

    def known(self) -> Mapping[str, KnownServices]:
        """What was listed, moved on by events. A cluster without any Service is not believed: each has `kubernetes`."""
        found = {}
        for registry, watch in self._watches.items():
            table = watch.table
            if table is not None and (registry != _KUBERNETES or table.services):
                services = {service.key: service for service in table.services.values()}
                found[registry] = KnownServices(services, table.version)
        return found

    async def changed(self) -> None:
        """Return when something may have changed since the last call returned."""
        await self._changed.wait()
        self._changed.clear()

    def describe(self) -> ServicesState:
        """How it stands: as old as the older of the two."""
        watches = [watch for registry, watch in self._watches.items() if registry != _EXTERNAL or self._has_entries]
        tables = [watch.table for watch in watches if watch.table is not None]
        complete = len(tables) == len(watches)
        age = self._monotonic() - min(watch.heard_at for watch in watches) if complete else None
        problems = [watch.problem for watch in watches if watch.problem]
        if complete and not tables[0].services:
            problems.append("the cluster lists no service at all, which is not believed")
        left_out = [problem for table in tables for problem in table.problems.values()]
        return ServicesState(
            kind="kubernetes",
            age_seconds=age,
            max_age_seconds=self._limits.services_max_age_seconds,
            services=sum(map(len, tables)),
            is_fresh=age is not None and age <= self._limits.services_max_age_seconds,
            problem="; ".join([*problems, *left_out[:_MAX_SHOWN]]),
            left_out=len(left_out),
        )
