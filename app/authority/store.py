"""The administration's port to the database: synchronous units of work, run by an adapter in its own threads.

A unit of work is a plain function over a `Transaction`. The adapter may run many in one commit, each shielded
from the failure of the others; `write` returns after the commit was durable. A unit that starts with
`Transaction.lock()` is alone among the administrators of all replicas until it commits, so what it reads
afterwards stays true.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeVar

from app.authority.authorities.authority_store import AuthorityRows, PendingActRows
from app.authority.certificates.stored_certificates import CertificateRows
from app.authority.ledger.ledger_ports import LedgerRows
from app.authority.ports import SnapshotDelta
from app.authority.records import (
    AdminToken,
    DocumentVersion,
    Head,
    Revision,
    RevisionDraft,
    StoredDocument,
    StoreStatus,
)
from app.identity.inventory import Node, Service, Workload
from app.ledger.entry import LedgerEntry

T = TypeVar("T")


class PolicyRows(Protocol):
    """Documents, their versions, and the revisions of the set."""

    def current_revision(self) -> Revision:
        """The newest revision; number 0 before anything was written."""
        ...

    def find_revision(self, number: int) -> Revision | None:
        """One revision."""
        ...

    def revisions_before(self, number: int | None, limit: int) -> list[Revision]:
        """Revisions with a smaller number, newest first; None starts at the newest."""
        ...

    def count(self) -> int:
        """How many documents there are now."""
        ...

    def heads(self, keys: Iterable[str]) -> dict[str, Head]:
        """The current versions of those of the keys that exist."""
        ...

    def all_heads(self) -> dict[str, Head]:
        """The current versions of the whole set."""
        ...

    def heads_at(self, revision: int) -> dict[str, Head]:
        """The versions of the whole set as it was at a revision."""
        ...

    def find_document(self, key: str, *, revision: int | None = None) -> StoredDocument | None:
        """One document, now or at a revision."""
        ...

    def changed_number(self, key: str) -> int | None:
        """The snapshot number that carries the current version of a document, also of a deleted one."""
        ...

    def documents_after(
        self, after: str, *, kind: str, namespace: str, limit: int, max_bytes: int
    ) -> list[StoredDocument]:
        """Documents with greater keys, in order; stops at the limit or once `max_bytes` of content are passed."""
        ...

    def contents(self, versions: Sequence[tuple[str, int]]) -> dict[str, Any]:
        """The contents of versions given as (key, revision), by key."""
        ...

    def versions_of(self, key: str, *, before: int | None, limit: int) -> list[DocumentVersion]:
        """The versions of one document, newest first."""
        ...

    def changes_of(self, revision: int, *, after: str, limit: int) -> list[DocumentVersion]:
        """What one revision changed, by key."""
        ...

    def append(self, draft: RevisionDraft) -> tuple[Revision, int]:
        """Make the next revision; returns it and the snapshot number that carries it. Needs the lock."""
        ...


class TokenRows(Protocol):
    """Named tokens."""

    def find(self, token_id: str) -> tuple[AdminToken, bytes] | None:
        """A token and the hash of its secret."""
        ...

    def list(self, *, name: str = "", include_revoked: bool = False) -> list[AdminToken]:
        """Tokens, oldest first."""
        ...

    def add(self, token: AdminToken, secret_hash: bytes) -> None:
        """Store a new token."""
        ...

    def revoke(self, token_id: str, at: datetime) -> None:
        """Mark a token as revoked."""
        ...


class InventoryRows(Protocol):
    """Nodes, workloads and services, by key."""

    def generation(self) -> int:
        """The number of the last change of anything in the inventory."""
        ...

    def nodes(self) -> dict[str, Node]:
        """All nodes."""
        ...

    def workloads(self) -> dict[str, Workload]:
        """All workloads."""
        ...

    def services(self) -> dict[str, Service]:
        """All services."""
        ...

    def services_generation(self) -> int:
        """The number of the last change of services."""
        ...

    def seen_version(self, registry: str) -> int:
        """Up to which resourceVersion a source knew the services of a registry when it stored them; 0 for never."""
        ...

    def put_seen_version(self, registry: str, version: int) -> None:
        """Say so. Needs the lock."""
        ...

    def leases(self) -> dict[str, datetime]:
        """Until when each cluster's inventory is leased; see `app.authority.ports.InventoryStore.read_leases`."""
        ...

    def put_lease(self, cluster: str, until: datetime | None) -> None:
        """Set the lease of a cluster; None ends having one. Needs the lock."""
        ...

    def change(
        self,
        *,
        nodes: Mapping[str, Node | None],
        workloads: Mapping[str, Workload | None],
        services: Mapping[str, Service | None],
    ) -> int:
        """Store what changed (None deletes) and return the new generation. Needs the lock.

        Only services are part of snapshots: without one among the changes the snapshot number stays.
        """
        ...


class Transaction(Protocol):
    """What a unit of work may do."""

    @property
    def policies(self) -> PolicyRows:
        """Policy documents."""
        ...

    @property
    def tokens(self) -> TokenRows:
        """Named tokens."""
        ...

    @property
    def inventory(self) -> InventoryRows:
        """The inventory."""
        ...

    @property
    def authorities(self) -> AuthorityRows:
        """Authorities, and the bundles they make."""
        ...

    @property
    def pending_acts(self) -> PendingActRows:
        """Acts that need a second administrator."""
        ...

    @property
    def certificates(self) -> CertificateRows:
        """Issued certificates and revocation lists."""
        ...

    @property
    def ledger(self) -> LedgerRows:
        """What is in the ledger, to be read; `record` adds to it."""
        ...

    def lock(self) -> None:
        """Wait until no other administration is under way, on any replica, and keep it so until the commit."""
        ...

    def record(self, entry: LedgerEntry) -> None:
        """Append to the ledger in this transaction."""
        ...

    def read_delta(self, since_number: int) -> SnapshotDelta:
        """What changed in the sources of snapshots; see `app.authority.ports.SnapshotSource`."""
        ...

    def find_property(self, name: str) -> str | None:
        """A small stored value by name."""
        ...

    def keep_property(self, name: str, value: str) -> str:
        """Store a small value unless the name is taken; returns what is stored now."""
        ...

    def put_property(self, name: str, value: str) -> None:
        """Store a small value, whatever was there. Needs the lock."""
        ...

    def status(self) -> StoreStatus:
        """The numbers of the store."""
        ...


class Store(Protocol):
    """Runs units of work."""

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Run a unit that only reads, over one consistent state.

        Raises:
            AppError: `UNAVAILABLE`, `OVERLOADED`, and whatever the unit raises.
        """
        ...

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Run a unit that may write; returns after the commit.

        Raises:
            AppError: `UNAVAILABLE` when nothing is certain to be stored, `OVERLOADED` when nothing was tried,
                and whatever the unit raises (then nothing of it is stored).
        """
        ...
