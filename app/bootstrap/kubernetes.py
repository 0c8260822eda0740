"""What is built only where an API server is configured: its client library is an extra that others do without."""

from __future__ import annotations

from contextlib import AsyncExitStack

from app.authority.placement.inventory_view import StoredPlacement
from app.kube.access import ApiServer, ApiServerAccess
from app.kube.pod_watch import PodWatch
from app.kube.published_keys import PublishedKeys
from app.kube.service_watch import ServiceWatch
from app.kube.token_review import TokenReviewer
from app.limits import Limits
from app.settings.clusters import KubernetesSettings, ServedCluster


class ClusterServer:
    """The API server of one cluster, and what can be had from it."""

    def __init__(self, api: ApiServer, cluster: ServedCluster, limits: Limits) -> None:
        self._api = api
        self._cluster = cluster
        self._limits = limits

    @classmethod
    async def open(
        cls, cluster: ServedCluster, access: KubernetesSettings, limits: Limits, stack: AsyncExitStack
    ) -> ClusterServer:
        """Load the client; `stack` closes it. Nothing is sent yet.

        Raises:
            AppError: `FAILED_PRECONDITION` when the client library is not installed.
        """
        api = await ApiServer.open(ApiServerAccess(**access.model_dump()), limits.kubernetes)
        stack.push_async_callback(api.close)
        return cls(api, cluster, limits)

    def published_keys(self) -> PublishedKeys:
        """The keys of its tokens."""
        return PublishedKeys(self._api, max_bytes=self._limits.certificate.jwks_max_bytes)

    def reviewer(self) -> TokenReviewer:
        """It says itself whose a token is."""
        cluster = self._cluster
        return TokenReviewer(
            self._api,
            self._limits.kubernetes,
            cluster=cluster.name,
            issuer=cluster.issuer,
            audiences=cluster.audiences,
        )

    def service_watch(self) -> ServiceWatch:
        """Its services and service entries."""
        return ServiceWatch(self._api, self._limits.kubernetes, cluster=self._cluster.name)

    def watch(self, stored: StoredPlacement) -> PodWatch:
        """Its pods; bans of its nodes are those of the stored inventory."""
        return PodWatch(self._api, self._limits.kubernetes, cluster=self._cluster.name, bans=stored.bans)
