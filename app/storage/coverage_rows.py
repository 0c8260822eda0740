"""Who holds what: the bundles that came with the newest certificates, and how long signatures are needed.

Everything here reads the unexpired certificates once, by the index on their end: some 0.1 s for 100,000 of them, so
it is asked when a step is judged or somebody looks, and not for every certificate.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Subquery, case, func, literal, select

from app.authority.authority_store import Holding, NodeHolding
from app.storage.tables import UtcTime, certificates

_HOLDER = (certificates.c.identity, certificates.c.node, certificates.c.cluster, certificates.c.holder)
_LONG_AGO = literal(datetime(1970, 1, 1, tzinfo=UTC), UtcTime)  # certificates of the first release: no begin is known


def _held(now: datetime, settled: datetime) -> Subquery:
    """What each holder of an unexpired workload certificate may believe in: `holder` numbers them.

    That is the bundle of the newest certificate that had the time to arrive (it begins at `settled` or before), and of
    every newer one. Certificates for our own doors are left out: those who hold them do not judge peers by the bundle
    beside them.
    """
    row = certificates.c
    begin = func.coalesce(row.not_before, _LONG_AGO)
    arrived = func.max(case((begin <= settled, begin))).over(partition_by=_HOLDER)
    seen = (
        select(*_HOLDER, row.bundle, row.not_after, begin.label("begin"), arrived.label("arrived"))
        .where(row.not_after > now, row.purpose == "")
        .subquery()
    )
    return select(seen).where(seen.c.begin >= func.coalesce(seen.c.arrived, _LONG_AGO)).subquery()


def holdings(connection: Connection, now: datetime, settled: datetime) -> tuple[Holding, ...]:
    """Holders by the bundle that they last got."""
    held = _held(now, settled).c
    each = (
        select(
            held.identity, held.node, held.cluster, held.holder, held.bundle, func.max(held.not_after).label("until")
        )
        .group_by(held.identity, held.node, held.cluster, held.holder, held.bundle)
        .subquery()
        .c
    )
    query = select(each.bundle, func.count().label("holders"), func.max(each.until).label("until")).group_by(
        each.bundle
    )
    return tuple(Holding(bundle=row.bundle, holders=row.holders, until=row.until) for row in connection.execute(query))


def nodes_without(
    connection: Connection, bundles: Collection[str], now: datetime, settled: datetime, limit: int
) -> tuple[NodeHolding, ...]:
    """Nodes with holders that last got none of these bundles; those with the most first."""
    held = _held(now, settled).c
    each = (
        select(held.identity, held.node, held.cluster, held.holder, func.max(held.not_after).label("until"))
        .where(held.bundle.not_in(bundles))
        .group_by(held.identity, held.node, held.cluster, held.holder)
        .subquery()
        .c
    )
    holders: Any = func.count().label("holders")
    query = (
        select(each.cluster, each.node, holders, func.max(each.until).label("until"))
        .group_by(each.cluster, each.node)
        .order_by(holders.desc(), each.cluster, each.node)
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
