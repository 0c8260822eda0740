"""What administration stores and returns: documents, versions, revisions, tokens, pages (values only)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar

from app.authority.actor import Role
from app.errors import FieldError
from app.policy.document import GRANT as _GRANT
from app.policy.document import QUARANTINE as _QUARANTINE
from app.policy.ownership import effect_of_content

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list; an empty `next_page_token` says that it is the last."""

    items: tuple[T, ...]
    next_page_token: str = ""


class Outcome(StrEnum):
    """What became of one document or inventory item."""

    CREATED = "created"
    CONFIGURED = "configured"  # it existed and is different now
    UNCHANGED = "unchanged"
    DELETED = "deleted"


class KeptKind(StrEnum):
    """Kinds that say who is cut off and who is let in today: a rollback of the set leaves them, unless asked to."""

    QUARANTINE = _QUARANTINE
    GRANT = _GRANT


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDocument:
    """A policy document as it rests. `etag` is its content hash (64 hex digits, without quotes)."""

    key: str  # "<Kind>/<namespace>/<name>"
    kind: str
    namespace: str
    name: str
    etag: str
    revision: int  # the revision that brought this version
    source: str  # who owns it: api, git or kubernetes
    content: Mapping[str, Any]  # apiVersion, kind, metadata, spec

    @property
    def effect(self) -> str:
        """Who enforces it: observed, enforced or projected; empty for kinds that have no effect."""
        return effect_of_content(self.content)


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentVersion:
    """One immutable version of one document. `etag` is empty for the version that deleted it."""

    key: str
    revision: int
    outcome: Outcome
    etag: str
    previous_etag: str
    author: str
    reason: str
    time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """One immutable version of the whole set. Revision 0 is the empty set before anything was written."""

    number: int
    parent: int
    content_hash: str
    author: str
    reason: str
    time: datetime
    changes: int = 0  # how many documents it changed
    rollback_of: int | None = None  # the revision that it went back to


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentChange:
    """What a revision did, or a dry run would do, to one document."""

    key: str
    outcome: Outcome
    etag: str = ""  # empty when deleted
    previous_etag: str = ""  # empty when created
    warnings: tuple[FieldError, ...] = ()


@dataclass(frozen=True, slots=True)
class KeptDocument:
    """A document that a rollback left as it is, and what would have become of it had its kind been included."""

    key: str
    if_included: Outcome


@dataclass(frozen=True, slots=True)
class KeptDocuments:
    """What differs from the revision that was gone back to and was left as it is; only the first are named."""

    count: int = 0
    documents: tuple[KeptDocument, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyChange:
    """The result of writing to the set: one change a document, in the order given.

    `revision` is the set's current revision afterwards, unchanged when nothing changed or in a dry run.
    `number` is the snapshot number that carries the change to the workers. `kept` is for rollbacks of the set.
    """

    revision: Revision
    number: int
    changes: tuple[DocumentChange, ...]
    dry_run: bool = False
    kept: KeptDocuments = KeptDocuments()


@dataclass(frozen=True, slots=True)
class Head:
    """The current version of a document, without its content."""

    etag: str
    revision: int
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentWrite:
    """One document that a revision changes; `content` None deletes it."""

    key: str
    kind: str
    namespace: str
    name: str
    source: str
    outcome: Outcome
    etag: str
    previous_etag: str
    content: Any | None
    taken_from: str = ""  # the owner before, where the change takes the document over


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionDraft:
    """A revision about to be appended; the store gives it number, parent and content hash."""

    author: str
    reason: str
    time: datetime
    writes: tuple[DocumentWrite, ...]
    rollback_of: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminToken:
    """A named token, without its secret."""

    id: str
    name: str
    role: Role
    created_at: datetime
    created_by: str
    expires_at: datetime | None = None
    revoked_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token just made. `secret` is the whole bearer string and is shown this once."""

    token: AdminToken
    secret: str

    def __repr__(self) -> str:
        return f"NewToken({self.token!r}, secret=<redacted>)"


@dataclass(frozen=True, slots=True, kw_only=True)
class InventoryChange:
    """The result of writing to the inventory: how many items of each kind met which outcome."""

    generation: int
    nodes: Mapping[Outcome, int] = field(default_factory=dict)
    workloads: Mapping[Outcome, int] = field(default_factory=dict)
    services: Mapping[Outcome, int] = field(default_factory=dict)
    warnings: tuple[FieldError, ...] = ()
    dry_run: bool = False
    lease_until: datetime | None = None  # of the cluster that was written to


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStatus:
    """The numbers of the store at one moment."""

    revision: int
    revision_hash: str
    snapshot_number: int
    inventory_generation: int
    documents: int
    ledger_entries: int
