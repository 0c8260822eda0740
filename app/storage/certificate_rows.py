"""Issued certificates, as they are looked for, and the newest revocation list of each issuer.

A `uid` begins with the time, so newest first is the order of the primary key backwards.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, exists, func, literal, select, update

from app.authority.certificates.stored_certificates import (
    CertificateFilter,
    NumberedCertificates,
    StoredCertificate,
    StoredCrl,
)
from app.errors import AppError, ErrorCode
from app.storage.tables import UtcTime, certificates, crls, ledger, ledger_head
from app.storage.upsert import insert_if_absent

_c = certificates.c
_newer = certificates.alias("newer")
_LAST_CHARACTER = "\U0010ffff"
_MAX_LOOKED_AT = 5_000  # entries of one look for new certificates
_MARKS = {"_": "!_", "%": "!%", "!": "!!"}


class SqlCertificateRows:
    """Implements `app.authority.certificates.stored_certificates.CertificateRows` on a connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def page(self, asked: CertificateFilter, *, before: str, limit: int) -> list[StoredCertificate]:
        """Certificates, newest first."""
        query = _filtered(asked).order_by(_c.uid.desc()).limit(limit)
        if before:
            query = query.where(_c.uid < bytes.fromhex(before))
        return self._rows(query)

    def numbered(self, asked: CertificateFilter, *, first: int | None, limit: int) -> NumberedCertificates:
        """Certificates in the order of the ledger; a bounded number of entries is looked at."""
        size = self._connection.execute(select(ledger_head.c.size)).scalar_one()
        if first is None:
            return NumberedCertificates(items=[], following=size, is_end=True)
        if first > size:
            raise AppError(ErrorCode.INVALID, f"the ledger has {size} entries, and the cursor is at {first}")
        end, index = min(size, first + _MAX_LOOKED_AT), ledger.c.leaf_index
        # The entries first, because there are few: SQLite would rather begin with all certificates of an identity.
        entries = select(ledger.c.uid, index).where(index >= first, index < end).cte("entries")
        entries = entries.prefix_with("MATERIALIZED", dialect="sqlite")
        query = select(certificates, entries.c.leaf_index).join_from(entries, certificates, _c.uid == entries.c.uid)
        rows = self._connection.execute(
            query.where(*_conditions(asked)).order_by(entries.c.leaf_index).limit(limit)
        ).all()
        following = rows[-1].leaf_index + 1 if len(rows) == limit else end
        return NumberedCertificates(items=[*map(_certificate, rows)], following=following, is_end=following == size)

    def find(self, serial: str) -> list[StoredCertificate]:
        """The certificates of a serial."""
        return self._rows(select(certificates).where(_c.serial == serial).order_by(_c.uid))

    def entry(self, uid: str) -> tuple[int | None, bytes]:
        """The ledger entry of a certificate."""
        query = select(ledger.c.leaf_index, ledger.c.data).where(ledger.c.uid == bytes.fromhex(uid))
        row = self._connection.execute(query).one()
        return row.leaf_index, bytes(row.data)

    def overdue(self, *, now: datetime, margin: timedelta, limit: int) -> list[StoredCertificate]:
        """Newest of their kind, past half-life and margin, first to expire first."""
        query = select(certificates).where(*_overdue(now, margin)).order_by(_c.not_after, _c.uid).limit(limit)
        return self._rows(query)

    def count_overdue(self, *, now: datetime, margin: timedelta) -> int:
        """How many are overdue."""
        return int(self._connection.execute(select(func.count()).where(*_overdue(now, margin))).scalar_one())

    def crls(self) -> list[StoredCrl]:
        """The newest CRL of each issuer."""
        return [
            StoredCrl(**{**row._mapping, "der": bytes(row.der)})  # noqa: SLF001 - the documented way to a row's mapping
            for row in self._connection.execute(select(crls).order_by(crls.c.issuer))
        ]

    def replace_crl(self, crl: StoredCrl, *, expected_number: int) -> bool:
        """Compare and set."""
        values = {column.name: getattr(crl, column.name) for column in crls.columns}
        if expected_number == 0:
            insert_if_absent(self._connection, crls, values)
            found = select(crls.c.der).where(crls.c.issuer == crl.issuer, crls.c.number == crl.number)
            stored = self._connection.execute(found).scalar_one_or_none()
            return stored is not None and bytes(stored) == crl.der
        changed = update(crls).where(crls.c.issuer == crl.issuer, crls.c.number == expected_number).values(values)
        return self._connection.execute(changed).rowcount == 1

    def _rows(self, query: Select[Any]) -> list[StoredCertificate]:
        return [_certificate(row) for row in self._connection.execute(query)]


def _filtered(asked: CertificateFilter) -> Select[Any]:
    return select(certificates).where(*_conditions(asked))


def _conditions(asked: CertificateFilter) -> Iterable[ColumnElement[bool]]:
    if asked.identity.endswith("*"):
        prefix = asked.identity[:-1]
        # A range, which the index answers on both databases; LIKE needs an operator class of its own on PostgreSQL.
        yield and_(_c.identity >= prefix, _c.identity < prefix + _LAST_CHARACTER)
    elif asked.identity:
        yield _c.identity == asked.identity
    for column, wanted in (
        (_c.serial, asked.serial),
        (_c.node, asked.node),
        (_c.cluster, asked.cluster),
        (_c.authority, asked.authority),
    ):
        if wanted:
            yield column == wanted
    if asked.namespace:
        name = "".join(_MARKS.get(character, character) for character in asked.namespace)
        yield _c.identity.like(f"spiffe://%/ns/{name}/sa/%", escape="!")
    if asked.expiring_before is not None:
        yield _c.not_after < asked.expiring_before
    if asked.current_at is not None:
        yield _c.not_after > asked.current_at


def _superseded() -> ColumnElement[bool]:
    """Whether there is a newer certificate of the same holder."""
    return exists(
        select(literal(1))
        .select_from(_newer)
        .where(
            _newer.c.identity == _c.identity,
            _newer.c.node == _c.node,
            _newer.c.cluster == _c.cluster,
            _newer.c.holder == _c.holder,
            _newer.c.uid > _c.uid,
        )
    )


def _overdue(now: datetime, margin: timedelta) -> tuple[ColumnElement[bool], ...]:
    # Times are microseconds: past half-life and margin is not_before + not_after < 2 (now - margin).
    bound = 2 * UtcTime().process_bind_param(now - margin, None)  # type: ignore[operator, arg-type]
    half_life = func.coalesce(_c.not_before, 0).op("+")(func.coalesce(_c.not_after, 0))
    return (_c.purpose == "", _c.not_after > now, half_life < literal(bound), ~_superseded())


def _certificate(row: Row[Any]) -> StoredCertificate:
    found = {name: row._mapping[name] for name in certificates.columns.keys()}  # noqa: SLF001, SIM118 - no mapping
    return StoredCertificate(**{**found, "uid": bytes(row.uid).hex()})
