"""Acts that need a second administrator."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from app.authority.authorities.authority_store import ActState, PendingAct
from app.errors import AppError, ErrorCode
from app.storage.tables import pending_acts


class SqlPendingActRows:
    """Implements `app.authority.authorities.authority_store.PendingActRows` on a connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def find(self, act_id: str) -> PendingAct | None:
        """One of them."""
        row = self._connection.execute(select(pending_acts).where(pending_acts.c.id == act_id)).one_or_none()
        return _act(row) if row else None

    def list(self, *, limit: int) -> tuple[PendingAct, ...]:
        """The newest, newest first."""
        order = (pending_acts.c.requested_at.desc(), pending_acts.c.id)
        return tuple(_act(row) for row in self._connection.execute(select(pending_acts).order_by(*order).limit(limit)))

    def count_open(self, now: datetime) -> int:
        """How many may still be confirmed."""
        row = pending_acts.c
        query = select(func.count()).where(row.state == ActState.PENDING.value, row.expires_at > now)
        return int(self._connection.execute(query).scalar_one())

    def add(self, act: PendingAct) -> None:
        """Store a new one."""
        self._connection.execute(insert(pending_acts), asdict(act))

    def decide(self, act: PendingAct) -> None:
        """Store the decision, once."""
        row = pending_acts.c
        result = self._connection.execute(
            update(pending_acts).where(row.id == act.id, row.state == ActState.PENDING.value).values(asdict(act))
        )
        if result.rowcount != 1:
            raise AppError(ErrorCode.CONFLICT, f"the act {act.id} is decided already")


def _act(row: Row[Any]) -> PendingAct:
    members = {**row._mapping}  # noqa: SLF001 - the documented way to a row's mapping
    return PendingAct(**{**members, "state": ActState(row.state)})
