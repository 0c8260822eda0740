"""Who may ask, built from settings: whose tokens are believed, and where each cluster's placement comes from."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from app.authority.placement.clusters import Clusters
from app.authority.placement.inventory_view import InventoryView
from app.authority.placement.keep_services import KeepServices
from app.authority.placement.placements import Placements, PlacementSource
from app.authority.ports import ClusterTokens, InventoryStore, TokenAuthenticator, TokenCaller
from app.errors import AppError, ErrorCode
from app.identity.inventory import LOCAL_CLUSTER
from app.kube.failures import NOT_INSTALLED
from app.settings import Settings
from app.settings.clusters import ServedCluster
from app.storage.inventory_file import FilePlacement
from app.telemetry import metrics
from app.tokens.builtin_issuer import BuiltinIssuer
from app.tokens.jwks_authenticator import Issuer, JwksAuthenticator
from app.tokens.jwks_source import FileJwks, JwksSource, MemoryJwks, UrlJwks
from app.tokens.token_issuers import TokenIssuers

if TYPE_CHECKING:
    from app.bootstrap.kubernetes import ClusterServer

_FIGURES_SECONDS = 1.0
_Work = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class MeasuredTokens:
    """Observes the age of tokens that hold; implements `TokenAuthenticator`."""

    tokens: TokenAuthenticator
    clusters: Clusters

    async def authenticate(self, token: str, *, now: datetime, cluster: str = "") -> TokenCaller:
        """As `tokens` does."""
        caller = await self.tokens.authenticate(token, now=now, cluster=cluster)
        if caller.issued_at is not None:
            age = (now - caller.issued_at).total_seconds()
            metrics.TOKEN_AGE.labels(caller.cluster or self.clusters.id).observe(max(0.0, age))
        return caller


@dataclass(slots=True)
class Placement:
    """What was built. `work` runs as long as the process serves."""

    view: InventoryView
    placements: Placements
    authenticator: TokenAuthenticator
    work: list[_Work] = field(default_factory=list)
    local_server: ClusterServer | None = None  # of the local cluster, where one is configured
    services_kept: KeepServices | None = None  # who keeps the services, where they are not pushed


async def open_placement(
    settings: Settings, store: InventoryStore, builtin: BuiltinIssuer, stack: AsyncExitStack
) -> Placement:
    """Everything about who may ask; `stack` closes it. API servers are asked later, and need not be there yet.

    Raises:
        AppError: `FAILED_PRECONDITION` when an API server is configured and its client is not installed; `INVALID`
            when two issuers of one cluster are the same.
    """
    clusters = clusters_of(settings)
    limits = settings.limits.certificate
    view = InventoryView(
        store,
        refresh_seconds=limits.inventory_refresh_seconds,
        max_age_seconds=settings.inventory_max_age_seconds,
        ban_max_age_seconds=max(limits.ban_max_age_seconds, settings.inventory_max_age_seconds),
    )
    servers = {
        cluster.name: await _open_server(cluster, settings, stack)
        for cluster in settings.clusters
        if cluster.kubernetes is not None
    }
    issuers = _issuers(settings, builtin, servers)
    stack.push_async_callback(issuers.close)
    sources: dict[str, PlacementSource] = {
        cluster: view.source(clusters.stored(cluster) or LOCAL_CLUSTER) for cluster in clusters
    }
    placement = Placement(view, Placements(sources, clusters), MeasuredTokens(issuers, clusters), [view.run])
    placement.local_server = servers.get(clusters.id)
    if settings.inventory.file is not None:
        local = ServedCluster(name=clusters.id, inventory="file", inventory_file=settings.inventory.file)
        _add_source(placement, sources, local, settings, None)
    for cluster in settings.clusters:
        _add_source(placement, sources, cluster, settings, servers.get(cluster.name))
    placement.work.append(partial(_show_figures, placement.placements))
    return placement


def clusters_of(settings: Settings) -> Clusters:
    """The names of all clusters; an entry for the local one adds to its aliases."""
    local = settings.cluster
    aliases = frozenset(local.aliases).union(*(one.aliases for one in settings.clusters if one.name == local.id))
    others = {one.name: frozenset(one.aliases) for one in settings.clusters if one.name != local.id}
    return Clusters(id=local.id, aliases=aliases, others=others)


async def _open_server(cluster: ServedCluster, settings: Settings, stack: AsyncExitStack) -> ClusterServer:
    try:
        from app.bootstrap.kubernetes import ClusterServer
    except ImportError as error:
        raise AppError(ErrorCode.FAILED_PRECONDITION, NOT_INSTALLED, diagnosis=str(error)) from None
    assert cluster.kubernetes is not None
    return await ClusterServer.open(cluster, cluster.kubernetes, settings.limits, stack)


def _add_source(
    placement: Placement,
    sources: dict[str, PlacementSource],
    cluster: ServedCluster,
    settings: Settings,
    server: ClusterServer | None,
) -> None:
    stored = placement.view.source(placement.placements.clusters.stored(cluster.name) or LOCAL_CLUSTER)
    match cluster.inventory:
        case "database":
            return
        case "file":
            assert cluster.inventory_file is not None
            file = FilePlacement(cluster.inventory_file, settings.limits, bans=stored.bans)
            sources[cluster.name] = file
            placement.work.append(file.run)
        case "kubernetes":
            assert server is not None
            watch = server.watch(stored)
            sources[cluster.name] = watch
            placement.work.append(watch.run)


def _issuers(settings: Settings, builtin: BuiltinIssuer, servers: dict[str, ClusterServer]) -> TokenIssuers:
    limits, local = settings.limits.certificate, settings.cluster.id
    own = Issuer(issuer=builtin.issuer, audiences=frozenset(builtin.audiences), cluster=local)
    authenticators = [JwksAuthenticator(own, MemoryJwks(builtin.jwks), limits)]
    clusters = clusters_of(settings)
    for issuer in settings.tokens.issuers:
        source: JwksSource
        if issuer.jwks_file is not None:
            source = FileJwks(issuer.jwks_file, limits)
        else:
            assert issuer.jwks_url is not None
            source = UrlJwks(issuer.jwks_url, limits, ca_file=issuer.ca_file, allow_private=issuer.allow_private)
        cluster_id = clusters.resolve(issuer.cluster) or issuer.cluster
        trusted = Issuer(issuer=issuer.issuer, audiences=frozenset(issuer.audiences), cluster=cluster_id)
        authenticators.append(JwksAuthenticator(trusted, source, limits))
    reviewers: list[ClusterTokens] = []
    for cluster in settings.clusters:
        if cluster.tokens == "jwks":
            vouched = Issuer(issuer=cluster.token_issuer, audiences=frozenset(cluster.audiences), cluster=cluster.name)
            authenticators.append(JwksAuthenticator(vouched, servers[cluster.name].published_keys(), limits))
        elif cluster.tokens == "review":
            reviewers.append(servers[cluster.name].reviewer())
    return TokenIssuers(authenticators, limits, reviewers=reviewers, clusters=clusters)


async def _show_figures(placements: Placements) -> None:
    """Keep the gauges of the sources up to date."""
    while True:
        for cluster, state in placements.describe().items():
            labels = (cluster, state.kind)
            if state.age_seconds is not None:
                metrics.PLACEMENT_AGE.labels(*labels).set(state.age_seconds)
            metrics.PLACEMENT_WORKLOADS.labels(*labels).set(state.workloads)
            metrics.PLACEMENT_USABLE.labels(*labels).set(state.usable)
        await asyncio.sleep(_FIGURES_SECONDS)
