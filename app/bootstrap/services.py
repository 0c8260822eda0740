"""Where the services of the inventory come from, built from settings; nothing when they are pushed to the API."""

from __future__ import annotations

import asyncio

from app.authority.placement.keep_services import KeepServices
from app.authority.placement.service_source import ServiceSource
from app.authority.ports import Clock
from app.authority.store import Store
from app.bootstrap.placement import Placement
from app.settings import Settings
from app.storage.services_file import FileServices
from app.telemetry import metrics

_FIGURES_SECONDS = 1.0


def keep_services(settings: Settings, store: Store, placement: Placement, clock: Clock) -> KeepServices | None:
    """Who keeps the services; its work joins that of the placement."""
    source: ServiceSource
    match settings.inventory.services.source:
        case "api":
            return None
        case "file":
            assert settings.inventory.services.file is not None  # the settings were checked
            file = FileServices(settings.inventory.services.file, settings.limits)
            source = file
            placement.work.append(file.run)
        case "kubernetes":
            assert placement.local_server is not None
            watch = placement.local_server.service_watch()
            source = watch
            placement.work.append(watch.run)
    kept = KeepServices(store, source, clock=clock, limits=settings.limits.kubernetes)

    async def show_figures() -> None:
        while True:
            state = kept.describe()
            metrics.SERVICES_KNOWN.labels(state.kind).set(state.services)
            metrics.SERVICES_FRESH.labels(state.kind).set(state.is_fresh)
            metrics.SERVICES_LEFT_OUT.labels(state.kind).set(state.left_out)
            if state.age_seconds is not None:
                metrics.SERVICES_AGE.labels(state.kind).set(state.age_seconds)
            await asyncio.sleep(_FIGURES_SECONDS)

    placement.work += [kept.run, show_figures]
    return kept
