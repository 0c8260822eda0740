"""Policy documents, their immutable versions, and the revisions of the set."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, func, insert, select

from app.authority.records import (
    DocumentVersion,
    DocumentWrite,
    Head,
    Outcome,
    Revision,
    RevisionDraft,
    StoredDocument,
)
from app.policy.set_hash import bucket_digest, set_hash
from app.policy.snapshot import bucket_of
from app.storage.counters import advance, value_of
from app.storage.tables import document_buckets, document_versions, documents, revisions
from app.storage.upsert import chunks, upsert

_versions = document_versions.c


class SqlPolicyRows:
    """Implements `app.authority.store.PolicyRows` on a connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    # Revisions

    def current_revision(self) -> Revision:
        """The newest revision."""
        row = self._connection.execute(select(revisions).order_by(revisions.c.number.desc()).limit(1)).one()
        return _revision(row)

    def find_revision(self, number: int) -> Revision | None:
        """One revision."""
        row = self._connection.execute(select(revisions).where(revisions.c.number == number)).one_or_none()
        return _revision(row) if row else None

    def revisions_before(self, number: int | None, limit: int) -> list[Revision]:
        """Revisions with a smaller number, newest first."""
        query = select(revisions).order_by(revisions.c.number.desc()).limit(limit)
        if number is not None:
            query = query.where(revisions.c.number < number)
        return [_revision(row) for row in self._connection.execute(query)]

    # Documents

    def count(self) -> int:
        """How many documents there are."""
        return value_of(self._connection, "documents")

    def heads(self, keys: Iterable[str]) -> dict[str, Head]:
        """The current versions of those keys that exist."""
        found: dict[str, Head] = {}
        for chunk in chunks(keys):
            query = _HEADS.where(documents.c.key.in_(chunk))
            found.update((row.key, Head(row.etag, row.revision, row.source)) for row in self._connection.execute(query))
        return found

    def all_heads(self) -> dict[str, Head]:
        """The current versions of the whole set."""
        return {row.key: Head(row.etag, row.revision, row.source) for row in self._connection.execute(_HEADS)}

    def heads_at(self, revision: int) -> dict[str, Head]:
        """The versions of the whole set at a revision."""
        newest = (
            select(_versions.key, func.max(_versions.revision).label("revision"))
            .where(_versions.revision <= revision)
            .group_by(_versions.key)
            .subquery()
        )
        query = (
            select(_versions.key, _versions.etag, _versions.revision, _versions.source)
            .join(newest, and_(_versions.key == newest.c.key, _versions.revision == newest.c.revision))
            .where(_versions.etag != "")
        )
        return {row.key: Head(row.etag, row.revision, row.source) for row in self._connection.execute(query)}

    def find_document(self, key: str, *, revision: int | None = None) -> StoredDocument | None:
        """One document, now or at a revision."""
        query = select(document_versions).where(_versions.key == key).order_by(_versions.revision.desc()).limit(1)
        if revision is not None:
            query = query.where(_versions.revision <= revision)
        row = self._connection.execute(query).one_or_none()
        return _document(row) if row and row.etag else None

    def changed_number(self, key: str) -> int | None:
        """The snapshot number that carries a document."""
        query = select(documents.c.changed_number).where(documents.c.key == key)
        return self._connection.execute(query).scalar_one_or_none()

    def documents_after(
        self, after: str, *, kind: str, namespace: str, limit: int, max_bytes: int
    ) -> list[StoredDocument]:
        """Documents with greater keys, in order, up to a number and a size."""
        query = _LIVE_DOCUMENTS.where(documents.c.key > after).order_by(documents.c.key).limit(limit)
        if kind:
            query = query.where(documents.c.kind == kind)
        if namespace:
            query = query.where(documents.c.namespace == namespace)
        found: list[StoredDocument] = []
        size = 0
        with self._connection.execute(query) as rows:
            for row in rows:
                found.append(_document(row))
                size += len(row.content)
                if size > max_bytes:
                    break
        return found

    def contents(self, versions: Sequence[tuple[str, int]]) -> dict[str, Any]:
        """The contents of versions, by key."""
        wanted = dict(versions)
        found: dict[str, Any] = {}
        for chunk in chunks(wanted):
            query = select(_versions.key, _versions.revision, _versions.content).where(
                _versions.key.in_(chunk), _versions.revision.in_({wanted[key] for key in chunk})
            )
            for row in self._connection.execute(query):
                if wanted[row.key] == row.revision and row.content is not None:
                    found[row.key] = json.loads(row.content)
        return found

    def versions_of(self, key: str, *, before: int | None, limit: int) -> list[DocumentVersion]:
        """The versions of one document, newest first."""
        query = _VERSIONS.where(_versions.key == key).order_by(_versions.revision.desc()).limit(limit)
        if before is not None:
            query = query.where(_versions.revision < before)
        return [_version(row) for row in self._connection.execute(query)]

    def changes_of(self, revision: int, *, after: str, limit: int) -> list[DocumentVersion]:
        """What one revision changed, by key."""
        query = (
            _VERSIONS.where(_versions.revision == revision, _versions.key > after).order_by(_versions.key).limit(limit)
        )
        return [_version(row) for row in self._connection.execute(query)]

    # Writing

    def append(self, draft: RevisionDraft) -> tuple[Revision, int]:
        """Make the next revision and the snapshot number that carries it."""
        number = advance(self._connection, "revision")
        snapshot_number = advance(self._connection, "snapshot")
        buckets = {write.key: bucket_of(write.key) for write in draft.writes}
        upsert(
            self._connection,
            documents,
            [_head_row(write, number, snapshot_number, buckets[write.key]) for write in draft.writes],
        )
        revision = Revision(
            number=number,
            parent=number - 1,
            content_hash=self._rehash(set(buckets.values())),
            author=draft.author,
            reason=draft.reason,
            time=draft.time,
            changes=len(draft.writes),
            rollback_of=draft.rollback_of,
        )
        self._connection.execute(
            insert(revisions), [{column.name: getattr(revision, column.name) for column in revisions.columns}]
        )
        self._connection.execute(insert(document_versions), [_version_row(write, number) for write in draft.writes])
        self._adjust_count(draft.writes)
        return revision, snapshot_number

    def _adjust_count(self, writes: Iterable[DocumentWrite]) -> None:
        difference = sum(
            1 if write.outcome is Outcome.CREATED else -1 if write.outcome is Outcome.DELETED else 0 for write in writes
        )
        if difference:
            advance(self._connection, "documents", difference)

    def _rehash(self, touched: set[int]) -> str:
        """Bring the touched buckets' digests up to date; the hash of the whole set."""
        members: dict[int, list[tuple[str, str]]] = {bucket: [] for bucket in touched}
        query = select(documents.c.bucket, documents.c.key, documents.c.etag).where(
            documents.c.bucket.in_(touched), documents.c.deleted.is_(False)
        )
        for row in self._connection.execute(query):
            members[row.bucket].append((row.key, row.etag))
        upsert(
            self._connection,
            document_buckets,
            [{"bucket": bucket, "digest": bucket_digest(items)} for bucket, items in members.items()],
        )
        digests = self._connection.execute(select(document_buckets.c.bucket, document_buckets.c.digest))
        return set_hash({row.bucket: row.digest for row in digests})


_HEADS: Select[Any] = select(documents.c.key, documents.c.etag, documents.c.revision, documents.c.source).where(
    documents.c.deleted.is_(False)
)
_LIVE_DOCUMENTS: Select[Any] = (
    select(document_versions)
    .join(documents, and_(documents.c.key == _versions.key, documents.c.revision == _versions.revision))
    .where(documents.c.deleted.is_(False))
)
_VERSIONS: Select[Any] = select(
    _versions.key,
    _versions.revision,
    _versions.outcome,
    _versions.etag,
    _versions.previous_etag,
    revisions.c.author,
    revisions.c.reason,
    revisions.c.time,
).join(revisions, revisions.c.number == _versions.revision)


def _revision(row: Row[Any]) -> Revision:
    return Revision(**row._mapping)  # noqa: SLF001 - the documented way to a row's mapping


def _document(row: Row[Any]) -> StoredDocument:
    kind, namespace, name = row.key.split("/", 2)
    return StoredDocument(
        key=row.key,
        kind=kind,
        namespace=namespace,
        name=name,
        etag=row.etag,
        revision=row.revision,
        source=row.source,
        content=json.loads(row.content),
    )


def _version(row: Row[Any]) -> DocumentVersion:
    return DocumentVersion(**{**row._mapping, "outcome": Outcome(row.outcome)})  # noqa: SLF001


def _head_row(write: DocumentWrite, revision: int, number: int, bucket: int) -> dict[str, Any]:
    return {
        "key": write.key,
        "kind": write.kind,
        "namespace": write.namespace,
        "name": write.name,
        "source": write.source,
        "etag": write.etag,
        "revision": revision,
        "deleted": write.content is None,
        "bucket": bucket,
        "changed_number": number,
    }


def _version_row(write: DocumentWrite, revision: int) -> dict[str, Any]:
    return {
        "key": write.key,
        "revision": revision,
        "outcome": write.outcome.value,
        "etag": write.etag,
        "previous_etag": write.previous_etag,
        "source": write.source,
        "content": None if write.content is None else json.dumps(write.content, ensure_ascii=True, allow_nan=False),
    }
