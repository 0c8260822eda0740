"""Who holds what: the bundles that came with the newest certificates, and how long signatures are needed.

Everything here reads the unexpired certificates once, by the index on their end: below a second of one core for 100,000
of them, so it is asked when a step is judged or somebody looks, and not for every certificate. That there are millions
which have expired costs nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Subquery, Text, and_, func, literal, or_, select
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from app.authority.authorities.authority_store import Holding, NodeHolding
from app.ca.own_certificates import OwnCertificate, put_away
from app.ledger.entry import LedgerEntry
from app.storage.tables import UtcTime, certificates, ledger

_LONG_AGO = literal(datetime(1970, 1, 1, tzinfo=UTC), UtcTime)  # certificates of the first release: no begin is known


def _unexpired(now: datetime) -> ReadOnlyColumnCollection[str, Any]:
    """The unexpired workload certificates.

    Aside, because SQLite would rather read every certificate there ever was, in the order of another index, than sort.
    """
    columns = ("uid", "identity", "node", "cluster", "holder", "bundle", "not_before", "not_after")
    found = select(*(certificates.c[name] for name in columns)).where(
        certificates.c.not_after > now, certificates.c.purpose == ""
    )
    return found.cte("unexpired").prefix_with("MATERIALIZED", dialect="sqlite").c


def _held(now: datetime, settled: datetime) -> Subquery:
    """What each holder of an unexpired workload certificate may believe in, one row a holder and bundle.

    That is the bundle of the newest certificate that had the time to arrive (it begins at `settled` or before), and of
    every newer one. Certificates for our own doors are left out: those who hold them do not judge peers by the bundle
    beside them.
    """
    row = _unexpired(now)
    holder = (row.identity, row.node, row.cluster, row.holder)
    begin = func.coalesce(row.not_before, _LONG_AGO)
    newest_first = (begin.desc(), row.uid.desc())
    newer_begin = func.lag(begin, type_=UtcTime).over(partition_by=holder, order_by=newest_first)
    newer_bundle = func.lag(row.bundle, type_=Text).over(partition_by=holder, order_by=newest_first)
    seen = select(
        row.node,
        row.cluster,
        row.bundle,
        row.not_after,
        newer_begin.label("newer_begin"),
        newer_bundle.label("newer_bundle"),
    ).subquery()
    is_newest = seen.c.newer_begin.is_(None)
    may_not_have_arrived = and_(seen.c.newer_begin > settled, seen.c.newer_bundle != seen.c.bundle)
    return select(seen).where(or_(is_newest, may_not_have_arrived)).subquery()


def holdings(connection: Connection, now: datetime, settled: datetime) -> tuple[Holding, ...]:
    """Holders by the bundle that they last got."""
    held = _held(now, settled).c
    query = select(held.bundle, func.count().label("holders"), func.max(held.not_after).label("until")).group_by(
        held.bundle
    )
    return tuple(Holding(bundle=row.bundle, holders=row.holders, until=row.until) for row in connection.execute(query))


def nodes_without(
    connection: Connection, bundles: Collection[str], now: datetime, settled: datetime, limit: int
) -> tuple[NodeHolding, ...]:
    """Nodes with holders that last got none of these bundles; those with the most first."""
    held = _held(now, settled).c
    holders: Any = func.count().label("holders")
    query = (
        select(held.cluster, held.node, holders, func.max(held.not_after).label("until"))
        .where(held.bundle.not_in(bundles))
        .group_by(held.cluster, held.node)
        .order_by(holders.desc(), held.cluster, held.node)
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


def needed_ends(connection: Connection, now: datetime) -> Mapping[str, datetime]:
    """The same of those that somebody may still present: of ours the ones that were put away are left out."""
    row = certificates.c
    query = select(row.authority, func.max(row.not_after).label("until")).where(row.not_after > now, row.purpose == "")
    ends = {found.authority: found.until for found in connection.execute(query.group_by(row.authority))}
    own = connection.execute(
        select(row.serial, row.authority, row.not_after, ledger.c.data)
        .join(ledger, ledger.c.uid == row.uid)
        .where(row.not_after > now, row.purpose != "")
        .order_by(ledger.c.id)
    ).all()
    unused = put_away([_own(found.serial, bytes(found.data)) for found in own])
    for found in own:
        if found.serial not in unused:
            ends[found.authority] = max(found.not_after, ends.get(found.authority, found.not_after))
    return ends


def _own(serial: str, data: bytes) -> OwnCertificate:
    try:
        entry = LedgerEntry.from_bytes(data)
    except ValueError:  # a damaged entry says nothing, so it puts nothing away
        return OwnCertificate(serial=serial, actor="")
    replaced = entry.detail.get("replaced")
    return OwnCertificate(
        serial=serial,
        actor=entry.actor,
        replaced=frozenset(map(str, replaced)) if isinstance(replaced, list) else frozenset(),
        replica=str(entry.detail.get("replica", "")),
        started=str(entry.detail.get("started", "")),
    )
