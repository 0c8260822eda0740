"""What the use cases of the authority process need from the outside.

Protocols and the values that cross them; adapters in `storage`, `keys`, `tokens` implement them. Everything
that waits is async; an adapter decides for itself which thread does the waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from app.identity.inventory import Node, Service, Workload
from app.ledger.entry import LedgerEntry


class Clock(Protocol):
    """Where `now` comes from; injected so that tests own the time."""

    def now(self) -> datetime:
        """The current time, aware, in UTC: what certificates and records state. It may jump."""
        ...


class MonotonicClock(Clock, Protocol):
    """A clock that can also measure how much time passes, whatever happens to the wall clock."""

    def monotonic(self) -> float:
        """Seconds that only grow, from any beginning, time that the host is suspended included: for durations."""
        ...


class Ledger(Protocol):
    """The append-only record. Returning means durable: a power loss after it loses nothing."""

    async def append(self, entry: LedgerEntry) -> None:
        """Record one entry; many callers share one commit.

        Raises:
            AppError: `UNAVAILABLE` when the entry could not be made durable; then its effect must not happen.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCaller:
    """Who a bearer token speaks for, as a Kubernetes bound service-account token says it.

    A caller that renews with its current certificate has no token: then `renewed_serial` is that certificate's, and
    `renewed_holder` tells it from others of the same identity on the same node.
    """

    issuer: str
    token_id: str  # jti, for the ledger; the token itself is never kept
    namespace: str
    service_account: str
    pod_name: str = ""
    pod_uid: str = ""
    node_name: str = ""
    cluster: str = ""
    issued_at: datetime | None = None
    expires_at: datetime | None = None
    renewed_serial: str = ""
    renewed_holder: str = ""


class TokenAuthenticator(Protocol):
    """Verifies bearer tokens."""

    async def authenticate(self, token: str, *, now: datetime, cluster: str = "") -> TokenCaller:
        """The caller that a valid token names.

        `cluster` is what the caller calls its cluster; it may only choose who verifies, never what is believed.

        Raises:
            AppError: `UNAUTHENTICATED` with a diagnosis (`expired`, `audience` ...) when the token does not
                hold; `UNAVAILABLE` when its keys cannot be had.
        """
        ...


class ClusterTokens(TokenAuthenticator, Protocol):
    """Verifies the tokens of one cluster by asking it, so a token must be its own before it is shown to it."""

    @property
    def cluster(self) -> str:
        """The id of the cluster."""
        ...

    @property
    def issuer(self) -> str:
        """The `iss` of its tokens; empty when it is not known."""
        ...


class Signer(Protocol):
    """Signs to-be-signed certificate bytes with the issuing authority's key, wherever that key lives."""

    async def sign(self, tbs: bytes) -> bytes:
        """A signature over `tbs` with the issuing key.

        Raises:
            AppError: `UNAVAILABLE` when the key cannot be reached.
        """
        ...


@dataclass(frozen=True, slots=True)
class InventoryContents:
    """The whole inventory at one generation. `read_at` is when its source was last read successfully."""

    generation: int
    workloads: tuple[Workload, ...] = ()
    services: tuple[Service, ...] = ()
    nodes: tuple[Node, ...] = ()


class InventoryStore(Protocol):
    """Where nodes, workloads and services rest."""

    async def read_inventory(self, *, known_generation: int = -1) -> InventoryContents | None:
        """The inventory, or None when its generation is still `known_generation`."""
        ...

    async def read_leases(self) -> Mapping[str, datetime]:
        """Until when whoever pushes a cluster's inventory promised to come again; clusters without a lease are not in.

        The local cluster is `app.identity.inventory.LOCAL_CLUSTER`.
        """
        ...


@dataclass(frozen=True, slots=True)
class SnapshotDelta:
    """What changed in the snapshot's sources since a number that the reader already has.

    `documents` and `services` map keys to JSON values; None means that the item is gone. Read in one
    transaction, so the numbers belong together.
    """

    number: int
    revision: int
    inventory_generation: int
    documents: dict[str, Any] = field(default_factory=dict)
    services: dict[str, Any] = field(default_factory=dict)


class SnapshotSource(Protocol):
    """Where the publisher reads policy documents and services from."""

    async def read_delta(self, since_number: int) -> SnapshotDelta:
        """Everything that changed after `since_number`; -1 asks for everything there is."""
        ...


class SetSource(Protocol):
    """A set of documents that a question is about, read when its turn has come."""

    @property
    def name(self) -> str:
        """What it is kept as; the same name is the same set at another time."""
        ...

    async def since(self, number: int) -> SnapshotDelta:
        """What changed after `number` of this set; everything for -1.

        Raises:
            AppError: `NOT_FOUND` when there is no such set.
        """
        ...


class Aside(Protocol):
    """Does long work over whole sets without holding up anything else."""

    async def run(
        self, work: str, sets: Sequence[SetSource], argument: Callable[[], Any], values: Sequence[Any] = ()
    ) -> Any:
        """The answer of a function of `app.policy.set_work`, as JSON.

        The first of `sets` is the live one; `argument` is asked for when they have been read.

        Raises:
            AppError: what the work or the reading raised; `OVERLOADED` while others wait; `TIMEOUT` or `TOO_LARGE` when
                it takes too long or too much memory; `UNAVAILABLE` when it ended for another reason.
        """
        ...
