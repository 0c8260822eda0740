"""Settings of the clusters whose node proxies are served: how to reach each, whose tokens, which inventory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from app.settings.section import Section

DEFAULT_ISSUER = "https://kubernetes.default.svc.cluster.local"


class ClusterSettings(Section):
    """The cluster that a `clusterid` of a certificate request means when it says nothing: the local one."""

    id: str = "Kubernetes"
    aliases: tuple[str, ...] = ()


class KubernetesSettings(Section):
    """How an API server is reached: from inside its cluster, by a kubeconfig, or by URL with files.

    `token_file` holds the bearer token of Gatehouse's own service account there; it is read again when it changes.
    """

    in_cluster: bool = False
    kubeconfig: Path | None = None
    context: str = ""  # of the kubeconfig; empty: its current one
    server: str = ""
    ca_file: Path | None = None
    token_file: Path | None = None

    @model_validator(mode="after")
    def _needs_one_way(self) -> Self:
        if self.in_cluster + (self.kubeconfig is not None) + bool(self.server) != 1:
            raise ValueError("needs exactly one of in_cluster: true, kubeconfig and server")
        if self.context and self.kubeconfig is None:
            raise ValueError("context belongs to a kubeconfig")
        if not self.server and (self.ca_file or self.token_file):
            raise ValueError("ca_file and token_file belong to server; a kubeconfig names its own")
        return self


class ServedCluster(Section):
    """One cluster. The entry whose name is `cluster.id` is about the local cluster; others are further clusters.

    `tokens`: `review` asks its API server about each new token (TokenReview), `jwks` verifies by the keys that it
    publishes; without either, `tokens.issuers` names who vouches for the cluster. `inventory`: `kubernetes` watches
    its pods, `database` is what is pushed to the API, `file` is a file. What needs an API server is the default
    where one is given.
    """

    name: str
    aliases: tuple[str, ...] = ()
    kubernetes: KubernetesSettings | None = None
    tokens: Literal["review", "jwks", "none"] = "none"
    issuer: str = ""  # the iss of its tokens; with `review` only such are shown to it. Needed beside other clusters
    audiences: tuple[str, ...] = ("istio-ca",)
    inventory: Literal["kubernetes", "database", "file"] = "database"
    inventory_file: Path | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, value: object) -> object:
        if isinstance(value, dict) and value.get("kubernetes") is not None:
            return {"tokens": "review", "inventory": "kubernetes", **value}
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.kubernetes is None and (self.tokens != "none" or self.inventory == "kubernetes"):
            raise ValueError(f"cluster {self.name!r}: tokens and inventory need its API server: set kubernetes")
        if (self.inventory == "file") != (self.inventory_file is not None):
            raise ValueError(f"cluster {self.name!r}: inventory: file and inventory_file belong together")
        return self

    @property
    def token_issuer(self) -> str:
        """The `iss` that its published keys vouch for."""
        return self.issuer or DEFAULT_ISSUER


class ServicesSettings(Section):
    """Where the services of the inventory come from.

    `api` is what is pushed, `kubernetes` a watch of the local cluster, `file` an inventory document in a file, which
    may be the one that the placement comes from.
    """

    source: Literal["api", "kubernetes", "file"] = "api"
    file: Path | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.source == "file") != (self.file is not None):
            raise ValueError("source: file and file belong together")
        return self


class InventorySettings(Section):
    """Where the local cluster's placement comes from, when no entry of `clusters` says it; and its services."""

    file: Path | None = None
    services: ServicesSettings = ServicesSettings()


def contradicting_clusters(
    local: ClusterSettings, served: tuple[ServedCluster, ...], inventory: InventorySettings, issuers: tuple[str, ...]
) -> Iterator[str]:
    """What does not go together, each as a sentence; `issuers` are the clusters that `tokens.issuers` name."""
    owners: dict[str, str] = dict.fromkeys((local.id, *local.aliases), local.id)
    seen: set[str] = set()
    for index, cluster in enumerate(served):
        if not cluster.name or "/" in cluster.name:
            yield f"clusters.{index}.name: must be a name without '/', not {cluster.name!r}"
        if cluster.name in seen:
            yield f"clusters.{index}.name: {cluster.name!r} is there twice"
        seen.add(cluster.name)
        for name in (cluster.name, *cluster.aliases):
            if owners.setdefault(name, cluster.name) != cluster.name:
                yield f"clusters.{index}: {name!r} is a name of cluster {owners[name]!r} already"
        if cluster.name == local.id and inventory.file is not None and cluster.inventory != "database":
            yield f"inventory.file: clusters.{index} says already where the inventory of {local.id!r} comes from"
    watched = any(cluster.name == local.id and cluster.kubernetes is not None for cluster in served)
    if inventory.services.source == "kubernetes" and not watched:
        yield f"inventory.services.source: kubernetes needs the API server of {local.id!r}: name it under clusters"
    yield from _shown_to_strangers(local, served)
    for index, name in enumerate(issuers):
        if name and name not in owners:
            yield f"tokens.issuers.{index}.cluster: {name!r} is no cluster; name it under clusters"


def _shown_to_strangers(local: ClusterSettings, served: tuple[ServedCluster, ...]) -> Iterator[str]:
    """Which API servers would be shown tokens of other clusters: whoever sees a token can use it until it expires."""
    several = len({local.id, *(cluster.name for cluster in served)}) > 1
    reviewing: dict[str, str] = {}
    for index, cluster in enumerate(served):
        if cluster.tokens != "review":
            continue
        if several and not cluster.issuer:
            yield (
                f"clusters.{index}.issuer: must name the iss of its tokens, because there are other clusters: with "
                "tokens: review its API server would be shown theirs (`kubectl get --raw "
                f"/.well-known/openid-configuration` says which), or set cluster.id if {cluster.name!r} is the only one"
            )
        elif cluster.issuer and (other := reviewing.setdefault(cluster.issuer, cluster.name)) != cluster.name:
            yield (
                f"clusters.{index}.issuer: {cluster.issuer!r} is that of cluster {other!r}, too, so each API server "
                "would be shown tokens of both; set tokens: jwks for one of them"
            )
