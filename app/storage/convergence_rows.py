"""Deadlines of a mesh that converges; implements `app.authority.certificates.converge_mesh.ConvergenceStore`."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, Connection, Subquery, case, func, insert, select, type_coerce, update

from app.authority.certificates.converge_mesh import Convergence, ConvergenceProgress, LateRenewal
from app.ledger.entry import LedgerEntry
from app.storage.database import Database
from app.storage.tables import UtcTime, certificates, convergences
from app.storage.transaction import SqlTransaction


class ConvergenceRows:
    """Keeps deadlines in an open database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def current_convergence(self, now: datetime) -> Convergence | None:
        """See `ConvergenceStore.current_convergence`."""
        return await self._database.read(lambda transaction: _current(transaction.connection, now))

    async def begin_convergence(self, convergence: Convergence, entry: LedgerEntry) -> None:
        """See `ConvergenceStore.begin_convergence`."""

        def work(transaction: SqlTransaction) -> None:
            transaction.lock()
            _end_all(transaction.connection, convergence.started_at)
            values = {
                "started_at": convergence.started_at,
                "deadline": convergence.deadline,
                "started_by": convergence.started_by,
                "reason": convergence.reason,
            }
            transaction.connection.execute(insert(convergences), values)
            transaction.record(entry)

        await self._database.write(work)

    async def end_convergence(self, now: datetime, entry: LedgerEntry) -> bool:
        """See `ConvergenceStore.end_convergence`."""

        def work(transaction: SqlTransaction) -> bool:
            transaction.lock()
            if _current(transaction.connection, now) is None:
                return False
            _end_all(transaction.connection, now)
            transaction.record(entry)
            return True

        return await self._database.write(work)

    async def convergence_progress(
        self, convergence: Convergence, *, now: datetime, backdate: timedelta, limit: int
    ) -> ConvergenceProgress:
        """See `ConvergenceStore.convergence_progress`."""

        def work(transaction: SqlTransaction) -> ConvergenceProgress:
            newest = _newest(now)
            # Certificates state whole seconds; one of the second of the start counts as issued after it.
            since = type_coerce(convergence.started_at.replace(microsecond=0) - backdate, UtcTime)
            deadline = type_coerce(convergence.deadline, UtcTime)
            state = case(
                (newest.c.not_before >= since, "renewed"), (newest.c.renews_at > deadline, "late"), else_="pending"
            )
            counts: dict[Any, int] = {
                row[0]: row[1] for row in transaction.connection.execute(select(state, func.count()).group_by(state))
            }
            late = (
                select(newest)
                .where(newest.c.not_before < since, newest.c.renews_at > deadline)
                .order_by(newest.c.renews_at.desc())
                .limit(limit)
            )
            return ConvergenceProgress(
                renewed=counts.get("renewed", 0),
                pending=counts.get("pending", 0),
                late=counts.get("late", 0),
                latest=tuple(
                    LateRenewal(row.identity, row.node, row.cluster, row.renews_at)
                    for row in transaction.connection.execute(late)
                ),
            )

        return await self._database.read(work)


def _current(connection: Connection, now: datetime) -> Convergence | None:
    table = convergences.c
    query = (
        select(table.started_at, table.deadline, table.started_by, table.reason)
        .where(table.ended_at.is_(None), table.deadline > now)
        .order_by(table.number.desc())
        .limit(1)
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else Convergence(**row._mapping)  # noqa: SLF001 - the documented way to a row's mapping


def _end_all(connection: Connection, now: datetime) -> None:
    connection.execute(update(convergences).where(convergences.c.ended_at.is_(None)).values(ended_at=now))


def _newest(now: datetime) -> Subquery:
    """The newest unexpired certificate of each identity on each node, and when it is renewed: at half of its life."""
    table = certificates.c
    begin = func.max(type_coerce(table.not_before, BigInteger))
    newest = (
        select(table.identity, table.node, table.cluster, begin.label("begin"))
        .where(table.not_after > now, table.purpose == "")
        .group_by(table.identity, table.node, table.cluster)
        .subquery()
    )
    end = func.max(type_coerce(table.not_after, BigInteger))
    return (
        select(
            table.identity,
            table.node,
            table.cluster,
            type_coerce(newest.c.begin, UtcTime).label("not_before"),
            type_coerce((newest.c.begin + end) // 2, UtcTime).label("renews_at"),
        )
        .join(
            newest,
            (table.identity == newest.c.identity)
            & (table.node == newest.c.node)
            & (table.cluster == newest.c.cluster)
            & (type_coerce(table.not_before, BigInteger) == newest.c.begin),
        )
        .group_by(table.identity, table.node, table.cluster, newest.c.begin)
        .subquery()
    )
