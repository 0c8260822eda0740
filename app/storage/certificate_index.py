"""What certificates are looked for by; implements `app.authority.certificates.certificate_records`'s port."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, select

from app.authority.certificates.certificate_records import RecordedCertificate
from app.authority.certificates.key_guard import CertifiedKey, holder_of
from app.storage.database import Database
from app.storage.tables import certificates
from app.storage.transaction import SqlTransaction

_HEX_OF_SHA256 = 64


class CertificateIndex:
    """Reads the table of certificates of an open database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find_certificate(self, serial: str) -> RecordedCertificate | None:
        """See `CertificateRecords.find_certificate`."""

        def work(transaction: SqlTransaction) -> RecordedCertificate | None:
            query = select(certificates).where(certificates.c.serial == serial).limit(1)
            row = transaction.connection.execute(query).one_or_none()
            return None if row is None else _recorded(row)

        return await self._database.read(work)

    async def certified_keys(self, *, now: datetime, since: datetime | None, limit: int) -> Sequence[CertifiedKey]:
        """See `CertificateRecords.certified_keys`."""
        table = certificates.c
        query = (
            select(table.key_hash, table.cluster, table.node, table.identity, table.not_after)
            .where(table.not_after > now, table.purpose == "")
            .order_by(table.uid.desc())
            .limit(limit)
        )
        if since is not None:
            # Ids begin with the milliseconds of their making, so the newest sit together in the primary key.
            query = query.where(table.uid >= int(since.timestamp() * 1000).to_bytes(6) + bytes(10))

        def work(transaction: SqlTransaction) -> list[CertifiedKey]:
            return [_key(row) for row in transaction.connection.execute(query) if len(row.key_hash) == _HEX_OF_SHA256]

        return (await self._database.read(work))[::-1]


def _recorded(row: Row[Any]) -> RecordedCertificate:
    return RecordedCertificate(
        serial=row.serial,
        authority=row.authority,
        identity=row.identity,
        node=row.node,
        cluster=row.cluster,
        purpose=row.purpose,
        key_hash=row.key_hash,
        holder=row.holder,
        not_before=row.not_before,
        not_after=row.not_after,
    )


def _key(row: Any) -> CertifiedKey:
    return CertifiedKey(
        key_hash=bytes.fromhex(row.key_hash),
        holder=holder_of(cluster=row.cluster, node=row.node, identity=row.identity),
        not_after=row.not_after,
    )
