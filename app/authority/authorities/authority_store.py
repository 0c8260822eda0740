"""What a unit of work may do with authorities, the bundles they make, replicas, and acts for two people."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from app.authority.authorities.authority_ports import StoredAuthority
from app.ca.lifecycle import Replica


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBundle:
    """A publication of the trust bundle. `roots` are the SHA-256 hashes of the roots' DER, hexadecimal, sorted."""

    sequence: int
    fingerprint: str
    roots: tuple[str, ...]
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """How many holders of unexpired certificates last got one bundle, and when the last of those expires."""

    bundle: str
    holders: int
    until: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeHolding:
    """A node some of whose holders last got other bundles than asked for."""

    cluster: str
    node: str
    holders: int
    until: datetime | None


class ActState(StrEnum):
    """What became of an act that needs a second administrator."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingAct:
    """An act that a second administrator must confirm.

    `sha256` is the hash of kind and body; `body` is canonical JSON: what is to be done, and the epoch that it was
    planned on.
    """

    id: str
    kind: str
    body: str
    sha256: str
    state: ActState
    requested_by: str  # the id of a token
    requested_name: str
    requested_at: datetime
    expires_at: datetime
    decided_by: str = ""
    decided_name: str = ""
    decided_at: datetime | None = None


class AuthorityRows(Protocol):
    """Authorities, published bundles and replicas."""

    def epoch(self) -> int:
        """How many changes of authorities there were."""
        ...

    def list(self) -> tuple[StoredAuthority, ...]:
        """Every authority, oldest first."""
        ...

    def add(self, added: Sequence[StoredAuthority]) -> None:
        """Store new authorities. Needs the lock.

        Raises:
            AppError: `CONFLICT` when one exists, or its role has an active authority already.
        """
        ...

    def replace(self, authority: StoredAuthority) -> StoredAuthority:
        """Store another version of an authority that is still at the epoch that `authority` has. Needs the lock.

        Raises:
            AppError: `CONFLICT` when somebody changed it since it was read.
        """
        ...

    def published(self) -> StoredBundle | None:
        """The bundle that was published last."""
        ...

    def publish(self, fingerprint: str, roots: Sequence[str], now: datetime) -> StoredBundle:
        """Make this the published bundle, unless it is; its sequence grows with each change. Needs the lock."""
        ...

    def bundles(self) -> Mapping[str, frozenset[str]]:
        """Which roots each fingerprint that was ever published stands for."""
        ...

    def holdings(self, now: datetime, settled: datetime) -> tuple[Holding, ...]:
        """The bundles that holders of unexpired workload certificates go by.

        One that renewed after `settled` may still go by what it had before, and counts for both.
        """
        ...

    def nodes_without(
        self, bundles: Collection[str], now: datetime, settled: datetime, limit: int
    ) -> tuple[NodeHolding, ...]:
        """Nodes with holders that may go by none of these bundles, those with the most first."""
        ...

    def last_ends(self, now: datetime) -> Mapping[str, datetime]:
        """When the last unexpired certificate of each authority expires, for those that have one."""
        ...

    def needed_ends(self, now: datetime) -> Mapping[str, datetime]:
        """The same of certificates that somebody may present: not of those that our own ports put away."""
        ...

    def replicas(self) -> tuple[Replica, ...]:
        """The processes that said that they issue."""
        ...

    def report_replica(self, replica: Replica) -> None:
        """Note what a replica took over."""
        ...

    def forget_replicas(self, *, seen_before: datetime, replica_id: str = "") -> None:
        """Forget those that were not heard of since, or the one of that id."""
        ...


class PendingActRows(Protocol):
    """Acts that need a second administrator."""

    def find(self, act_id: str) -> PendingAct | None:
        """One of them."""
        ...

    def list(self, *, limit: int) -> tuple[PendingAct, ...]:
        """The newest, newest first."""
        ...

    def count_open(self, now: datetime) -> int:
        """How many may still be confirmed."""
        ...

    def add(self, act: PendingAct) -> None:
        """Store a new one."""
        ...

    def decide(self, act: PendingAct) -> None:
        """Store the decision about one that was pending until now.

        Raises:
            AppError: `CONFLICT` when it is decided already.
        """
        ...
