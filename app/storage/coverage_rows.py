"""Who holds what: the bundles that came with the newest certificates, and how long signatures are needed.

Everything here reads the unexpired certificates once, by the index on their end: some 0.1 s for 100,000 of them, so
it is asked when a step is judged or somebody looks, and not for every certificate.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Subquery, func, select

from app.authority.authority_store import Holding, NodeHolding
from app.storage.tables import certificates


def _newest(now: datetime) -> Subquery:
    """The newest unexpired workload certificate of each holder.

    Certificates for our own doors are left out: those who hold them do not judge peers by the bundle beside them.
    """
    row = certificates.c
    rank = func.row_number().over(
        partition_by=(row.identity, row.node, row.cluster, row.holder),
        order_by=(row.not_before.desc().nulls_last(), row.uid.desc()),
    )
    ranked = (
        select(row.bundle, row.node, row.cluster, row.not_after, rank.label("rank"))
        .where(row.not_after > now, row.purpose == "")
        .subquery()
    )
    return select(ranked).where(ranked.c.rank == 1).subquery()


def holdings(connection: Connection, now: datetime) -> tuple[Holding, ...]:
    """Holders by the bundle that they last got."""
    newest = _newest(now).c
    query = select(newest.bundle, func.count().label("holders"), func.max(newest.not_after).label("until")).group_by(
        newest.bundle
    )
    return tuple(Holding(bundle=row.bundle, holders=row.holders, until=row.until) for row in connection.execute(query))


def nodes_without(
    connection: Connection, bundles: Collection[str], now: datetime, limit: int
) -> tuple[NodeHolding, ...]:
    """Nodes with holders that last got none of these bundles; those with the most first."""
    newest = _newest(now).c
    holders: Any = func.count().label("holders")
    query = (
        select(newest.cluster, newest.node, holders, func.max(newest.not_after).label("until"))
        .where(newest.bundle.not_in(bundles))
        .group_by(newest.cluster, newest.node)
        .order_by(holders.desc(), newest.cluster, newest.node)
        .limit(limit)
    )
    return tuple(
        NodeHolding(cluster=row.cluster, node=row.node, holders=row.holders, until=row.until)
        for row in connection.execute(query)
    )


def last_ends(connection: Connection, now: datetime) -> Mapping[str, datetime]:
    """When the last unexpired certificate of each authority expires."""
    row = certificates.c
    query = select(row.authority, func.max(row.not_after).label("until")).where(row.not_after > now)
    return {found.authority: found.until for found in connection.execute(query.group_by(row.authority))}
