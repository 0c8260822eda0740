"""Certificate authorities, the bundles that they made, the processes that issue; and other sealed keys."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, or_, select, update

from app.authority.authorities.authority_ports import StoredAuthority
from app.authority.authorities.authority_store import Holding, NodeHolding, StoredBundle
from app.ca.lifecycle import Replica
from app.errors import AppError, ErrorCode
from app.storage import coverage_rows
from app.storage.counters import advance, value_of
from app.storage.tables import authorities, bundles, replicas, sealed_keys
from app.storage.upsert import insert_if_absent, upsert


class SqlAuthorityRows:
    """Implements `app.authority.authorities.authority_store.AuthorityRows` on a connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def epoch(self) -> int:
        """How many changes there were."""
        return value_of(self._connection, "authorities")

    def list(self) -> tuple[StoredAuthority, ...]:
        """Every authority, oldest first."""
        query = select(authorities).order_by(authorities.c.created_at, authorities.c.role.desc(), authorities.c.id)
        return tuple(_authority(row) for row in self._connection.execute(query))

    def add(self, added: Sequence[StoredAuthority]) -> None:
        """Store new authorities."""
        present = self.list()
        ids = {authority.id for authority in present}
        signing = {authority.role for authority in present if authority.state == "active"} - {"peer"}
        for authority in added:
            if authority.id in ids or (authority.state == "active" and authority.role in signing):
                raise AppError(
                    ErrorCode.CONFLICT, f"there is a {authority.role} authority already: another replica was faster"
                )
        advance(self._connection, "authorities", len(added))
        self._connection.execute(insert(authorities), [asdict(authority) for authority in added])

    def replace(self, authority: StoredAuthority) -> StoredAuthority:
        """Compare-and-set on the row's epoch."""
        changed = replace(authority, epoch=authority.epoch + 1)
        row = authorities.c
        result = self._connection.execute(
            update(authorities).where(row.id == authority.id, row.epoch == authority.epoch).values(asdict(changed))
        )
        if result.rowcount != 1:
            raise AppError(ErrorCode.CONFLICT, f"the authority {authority.id} was changed meanwhile; look again")
        advance(self._connection, "authorities")
        return changed

    def published(self) -> StoredBundle | None:
        """The bundle that was published last."""
        row = self._connection.execute(select(bundles).order_by(bundles.c.sequence.desc()).limit(1)).one_or_none()
        if row is None:
            return None
        return StoredBundle(
            sequence=row.sequence, fingerprint=row.fingerprint, roots=tuple(row.roots.split()), since=row.since
        )

    def publish(self, fingerprint: str, roots: Sequence[str], now: datetime) -> StoredBundle:
        """Make this the published bundle, unless it is."""
        current = self.published()
        if current is not None and current.fingerprint == fingerprint:
            return current
        sequence = advance(self._connection, "bundle")
        advance(self._connection, "authorities")  # so that every replica looks
        made = StoredBundle(sequence=sequence, fingerprint=fingerprint, roots=tuple(sorted(roots)), since=now)
        self._connection.execute(insert(bundles), {**asdict(made), "roots": " ".join(made.roots)})
        return made

    def bundles(self) -> Mapping[str, frozenset[str]]:
        """The roots of every fingerprint."""
        found = self._connection.execute(select(bundles.c.fingerprint, bundles.c.roots))
        return {row.fingerprint: frozenset(row.roots.split()) for row in found}

    def holdings(self, now: datetime, settled: datetime) -> tuple[Holding, ...]:
        """Holders by the bundle that they last got."""
        return coverage_rows.holdings(self._connection, now, settled)

    def nodes_without(
        self, bundles: Collection[str], now: datetime, settled: datetime, limit: int
    ) -> tuple[NodeHolding, ...]:
        """Nodes that last got other bundles."""
        return coverage_rows.nodes_without(self._connection, bundles, now, settled, limit)

    def last_ends(self, now: datetime) -> Mapping[str, datetime]:
        """The last expiry of what each authority signed."""
        return coverage_rows.last_ends(self._connection, now)

    def needed_ends(self, now: datetime) -> Mapping[str, datetime]:
        """The last expiry of what each authority signed and somebody may still present."""
        return coverage_rows.needed_ends(self._connection, now)

    def replicas(self) -> tuple[Replica, ...]:
        """The processes that issue."""
        found = self._connection.execute(select(replicas).order_by(replicas.c.id))
        return tuple(Replica(id=row.id, epoch=row.epoch, seen_at=row.seen_at) for row in found)

    def report_replica(self, replica: Replica) -> None:
        """Note what a replica took over."""
        upsert(self._connection, replicas, [asdict(replica)])

    def forget_replicas(self, *, seen_before: datetime, replica_id: str = "") -> None:
        """Forget those that were not heard of since, or the one of that id."""
        self._connection.execute(
            delete(replicas).where(or_(replicas.c.seen_at < seen_before, replicas.c.id == replica_id))
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
