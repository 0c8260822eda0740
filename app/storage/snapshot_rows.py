"""What changed in the sources of snapshots since a number: cheap, because every row knows when it changed."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection, and_, select

from app.authority.ports import SnapshotDelta
from app.storage.counters import all_values
from app.storage.tables import document_versions, documents, services


def read_delta(connection: Connection, since_number: int) -> SnapshotDelta:
    """Everything that changed after a number; -1 asks for everything there is (then without tombstones)."""
    values = all_values(connection)
    return SnapshotDelta(
        number=values["snapshot"],
        revision=values["revision"],
        inventory_generation=values["services"],
        documents=_documents(connection, since_number),
        services=_services(connection, since_number),
    )


def _documents(connection: Connection, since_number: int) -> dict[str, Any]:
    query = select(documents.c.key, document_versions.c.content).join(
        document_versions,
        and_(document_versions.c.key == documents.c.key, document_versions.c.revision == documents.c.revision),
    )
    if since_number < 0:
        query = query.where(documents.c.deleted.is_(False))
    else:
        query = query.where(documents.c.changed_number > since_number)
    return {row.key: _load(row.content) for row in connection.execute(query)}


def _services(connection: Connection, since_number: int) -> dict[str, Any]:
    query = select(services.c.key, services.c.content, services.c.deleted)
    if since_number < 0:
        query = query.where(services.c.deleted.is_(False))
    else:
        query = query.where(services.c.changed_number > since_number)
    return {row.key: None if row.deleted else _load(row.content) for row in connection.execute(query)}


def _load(content: str | None) -> Any:
    return None if content is None else json.loads(content)
