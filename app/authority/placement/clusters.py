"""The clusters that this authority serves, by the names that callers use for them in `clusterid`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from app.identity.inventory import LOCAL_CLUSTER


@dataclass(frozen=True, slots=True, kw_only=True)
class Clusters:
    """The local cluster, by its id and aliases, and the others with theirs; empty text means the local one."""

    id: str = "Kubernetes"
    aliases: AbstractSet[str] = frozenset()
    others: Mapping[str, AbstractSet[str]] = field(default_factory=dict)  # aliases by id

    def __iter__(self) -> Iterator[str]:
        """The ids, the local one first."""
        yield self.id
        yield from self.others

    def resolve(self, name: str) -> str | None:
        """The id of the cluster that is meant, or None when no cluster is called so."""
        if name in ("", self.id) or name in self.aliases:
            return self.id
        if name in self.others:
            return name
        return next((cluster for cluster, aliases in self.others.items() if name in aliases), None)

    def stored(self, name: str) -> str | None:
        """How the stored inventory calls that cluster: the local one has no name there, so that it can be renamed."""
        cluster = self.resolve(name)
        return LOCAL_CLUSTER if cluster == self.id else cluster

    def agree(self, caller_cluster: str, claimed: str) -> bool:
        """Whether a caller whose token is of one cluster may say it is in the other; it need not say anything."""
        return claimed == "" or (self.resolve(claimed) or claimed) == (self.resolve(caller_cluster) or caller_cluster)
