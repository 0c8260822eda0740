"""Named tokens: hashes of secrets, never secrets."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from app.authority.actor import Role
from app.authority.records import AdminToken
from app.storage.tables import tokens


class SqlTokenRows:
    """Implements `app.authority.store.TokenRows` on a connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def find(self, token_id: str) -> tuple[AdminToken, bytes] | None:
        """A token and the hash of its secret."""
        row = self._connection.execute(select(tokens).where(tokens.c.id == token_id)).one_or_none()
        return (_token(row), bytes(row.secret_hash)) if row else None

    def list(self, *, name: str = "", include_revoked: bool = False) -> list[AdminToken]:
        """Tokens, oldest first."""
        query = select(tokens).order_by(tokens.c.created_at, tokens.c.id)
        if name:
            query = query.where(tokens.c.name == name)
        if not include_revoked:
            query = query.where(tokens.c.revoked_at.is_(None))
        return [_token(row) for row in self._connection.execute(query)]

    def add(self, token: AdminToken, secret_hash: bytes) -> None:
        """Store a new token."""
        self._connection.execute(
            insert(tokens),
            [
                {
                    "id": token.id,
                    "name": token.name,
                    "role": token.role.value,
                    "secret_hash": secret_hash,
                    "created_at": token.created_at,
                    "created_by": token.created_by,
                    "expires_at": token.expires_at,
                    "revoked_at": token.revoked_at,
                }
            ],
        )

    def revoke(self, token_id: str, at: datetime) -> None:
        """Mark a token as revoked."""
        self._connection.execute(update(tokens).where(tokens.c.id == token_id).values(revoked_at=at))


def _token(row: Row[Any]) -> AdminToken:
    return AdminToken(
        id=row.id,
        name=row.name,
        role=Role(row.role),
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )
