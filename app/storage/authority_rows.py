"""Certificate authorities and other sealed keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, insert, select

from app.authority.authority_ports import StoredAuthority
from app.errors import AppError, ErrorCode
from app.storage.tables import authorities, sealed_keys
from app.storage.upsert import insert_if_absent


def list_authorities(connection: Connection) -> tuple[StoredAuthority, ...]:
    """Every authority, oldest first."""
    query = select(authorities).order_by(authorities.c.created_at, authorities.c.role.desc(), authorities.c.id)
    return tuple(_authority(row) for row in connection.execute(query))


def add_authorities(connection: Connection, added: Sequence[StoredAuthority]) -> None:
    """Store new authorities. Needs the administration's lock.

    Raises:
        AppError: `CONFLICT` when one exists, or when its role has an active authority already.
    """
    present = list_authorities(connection)
    ids = {authority.id for authority in present}
    active = {authority.role for authority in present if authority.state == "active"}
    for authority in added:
        if authority.id in ids or (authority.state == "active" and authority.role in active):
            raise AppError(
                ErrorCode.CONFLICT, f"there is a {authority.role} authority already: another replica was faster"
            )
    connection.execute(
        insert(authorities),
        [{column.name: getattr(authority, column.name) for column in authorities.columns} for authority in added],
    )


def find_sealed_key(connection: Connection, name: str) -> bytes | None:
    """A sealed key by name."""
    sealed = connection.execute(select(sealed_keys.c.sealed).where(sealed_keys.c.name == name)).scalar_one_or_none()
    return None if sealed is None else bytes(sealed)


def keep_sealed_key(connection: Connection, name: str, sealed: bytes) -> bytes:
    """Store a sealed key unless the name is taken; returns what is stored now."""
    insert_if_absent(connection, sealed_keys, {"name": name, "sealed": sealed})
    return find_sealed_key(connection, name) or sealed


def _authority(row: Row[Any]) -> StoredAuthority:
    members = {**row._mapping}  # noqa: SLF001 - the documented way to a row's mapping
    return StoredAuthority(**{**members, "sealed_key": bytes(row.sealed_key)})
