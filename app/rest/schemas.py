"""The shapes of requests and responses: what the OpenAPI document shows."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from app.authority.records import KeptKind


class Shape(BaseModel):
    """camelCase outside, attributes inside."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, from_attributes=True, extra="forbid", serialize_by_alias=True
    )


class ProblemField(BaseModel):
    """One thing that is wrong: where in the body (JSON pointer) or which parameter, and what to do about it."""

    pointer: str
    message: str
    parameter: str | None = None


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    instance: str
    errors: list[ProblemField] = []


class Document(Shape):
    """A policy document with what is known about its current version."""

    key: str
    kind: str
    namespace: str
    name: str
    etag: str
    revision: int
    source: str
    effect: str
    content: dict[str, Any]


class DocumentPage(Shape):
    """One page of documents."""

    items: list[Document]
    next_page_token: str = ""


class RevisionShape(Shape):
    """One immutable version of the whole set."""

    number: int
    parent: int
    content_hash: str
    author: str
    reason: str
    time: datetime
    changes: int
    rollback_of: int | None


class RevisionPage(Shape):
    """One page of revisions, newest first."""

    items: list[RevisionShape]
    next_page_token: str = ""


class Version(Shape):
    """One version of one document."""

    key: str
    revision: int
    outcome: str
    etag: str
    previous_etag: str
    author: str
    reason: str
    time: datetime


class VersionPage(Shape):
    """One page of versions."""

    items: list[Version]
    next_page_token: str = ""


class Finding(Shape):
    """Something that is worth knowing about a document that was accepted."""

    pointer: str
    message: str


class SetFindingShape(Shape):
    """One remark; `index` says which of the given documents it is about, null one that is stored."""

    index: int | None
    document: str
    severity: str
    pointer: str
    code: str
    message: str


class LintReport(Shape):
    """Findings, errors first, and the revision of the live set that they are about."""

    revision: int
    findings: list[SetFindingShape]


class DocumentChangeShape(Shape):
    """What happened, or in a dry run would happen, to one document."""

    key: str
    outcome: str
    etag: str
    previous_etag: str
    warnings: list[Finding]


class PolicyChangeShape(Shape):
    """The result of writing to the set. A worker whose snapshot has at least this number serves the change."""

    revision: RevisionShape
    number: int
    changes: list[DocumentChangeShape]
    dry_run: bool


class KeptDocumentShape(Shape):
    """A document that stayed as it is, and what would have become of it, had its kind been included."""

    key: str
    if_included: str


class KeptShape(Shape):
    """How many documents stayed as they are although the revision has them otherwise, and the first of them."""

    count: int
    documents: list[KeptDocumentShape]


class RollbackShape(PolicyChangeShape):
    """The result of going back. `kept` says what did not."""

    kept: KeptShape


class RollbackRequest(Shape):
    """Which revision to bring back: the whole set, or one document.

    The set goes back without quarantines and grants, which stay as they are now, unless their kind is in `include`.
    """

    revision: Annotated[int, Field(ge=0, le=2**62)]
    document: DocumentName | None = None
    include: Annotated[frozenset[KeptKind], Field(description="Kinds that go back with the whole set.")] = frozenset()

    @model_validator(mode="after")
    def _must_include_kinds_in_the_whole_set(self) -> Self:
        if self.document is not None and self.include:
            raise ValueError("include is for the whole set; one document goes back whatever its kind")
        return self


class DocumentName(Shape):
    """Names a document; the namespace of a cluster-scoped kind is empty or -."""

    kind: Annotated[str, Field(max_length=128)]
    namespace: Annotated[str, Field(max_length=253)] = ""
    name: Annotated[str, Field(max_length=253)]


class StoreShape(Shape):
    """The numbers of the store."""

    revision: int
    revision_hash: str
    snapshot_number: int
    inventory_generation: int
    documents: int
    ledger_entries: int


class StatusShape(Shape):
    """The store, and each worker's last word about itself."""

    version: str
    snapshot_public_key: str
    store: StoreShape
    workers: list[dict[str, Any]]
    placements: list[dict[str, Any]]
    token_keys: list[dict[str, Any]]


class CheckpointShape(Shape):
    """A signed checkpoint of the ledger; `note` is what is verified, the rest is said for convenience."""

    size: int
    root: str
    time: datetime
    note: str


class LedgerEntryShape(Shape):
    """An entry; `index` is null until a checkpoint covers it, at most a second."""

    index: int | None
    uid: str
    leaf_hash: str
    entry: dict[str, Any]


class LedgerEntryPage(Shape):
    """One page of entries; with a filter it may be short although more follow."""

    items: list[LedgerEntryShape]
    next_page_token: str = ""


class OpenIntentShape(Shape):
    """A certificate that was going to be signed and is not on record."""

    serial: str
    uid: str
    subject: str
    time: datetime


class OpenIntentPage(Shape):
    """One page of open intents."""

    items: list[OpenIntentShape]
    next_page_token: str = ""


class LedgerKeyShape(Shape):
    """The key that every checkpoint is signed with, and the name of the log."""

    origin: str
    public_key: str


class TrustBundleShape(Shape):
    """The roots of the trust domain, as PEM."""

    trust_domain: str
    pem: str


class ConvergenceRequest(Shape):
    """Until when every certificate shall have been renewed: `by`, or so many seconds from now."""

    by: AwareDatetime | None = None
    within_seconds: Annotated[int | None, Field(ge=1, le=2**31)] = None
    reason: Annotated[str, Field(max_length=1_024)] = ""

    @model_validator(mode="after")
    def _must_name_one_deadline(self) -> Self:
        if (self.by is None) == (self.within_seconds is None):
            raise ValueError("give exactly one of by and withinSeconds")
        return self


class LateRenewalShape(Shape):
    """A certificate that is renewed only after the deadline."""

    identity: str
    node: str
    cluster: str
    renews_at: datetime


class ConvergenceShape(Shape):
    """The deadline that holds, if one does, and how many identities on nodes will renew before it.

    `latest` lists the last of the late ones.
    """

    active: bool
    started_at: datetime | None = None
    deadline: datetime | None = None
    seconds_left: int = 0
    started_by: str = ""
    reason: str = ""
    renewed: int = 0
    pending: int = 0
    late: int = 0
    latest: list[LateRenewalShape] = []


class SpiffeBundleShape(BaseModel):
    """A trust bundle as SPIFFE writes it: a JWK set with one X.509 root in each key."""

    keys: list[dict[str, Any]]
    spiffe_sequence: int
    spiffe_refresh_hint: int


RollbackRequest.model_rebuild()

# Read by hand (app.rest.bodies), so FastAPI does not know them; the OpenAPI document must.
REQUEST_MODELS: tuple[type[Shape], ...] = (RollbackRequest, ConvergenceRequest)
