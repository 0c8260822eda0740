"""`fsck`: every byte of the ledger in a database that may be in use, and the tables that are made from it.

Reads only, over one connection and in one transaction, so that a running Gatehouse is neither disturbed nor in the way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, select
from sqlalchemy.exc import SQLAlchemyError

from app.ledger.checkpoint import LogKey
from app.ledger.entry import EntryKind, LedgerEntry, leaf_hash
from app.limits import StorageLimits
from app.storage.engines import create_engines, parse_url
from app.storage.failures import as_app_error
from app.storage.fsck_authorities import check_authorities, check_bundles, recorded_authorities
from app.storage.ledger_check import check_tree
from app.storage.ledger_head import damaged, stored_bytes
from app.storage.ledger_reads import SqlLedgerRows
from app.storage.ledger_rows import CERTIFICATE_COLUMNS, certificate_columns, microseconds, stored_text
from app.storage.tables import certificates, intents, ledger, tokens

_PAGE = 500
_TOKEN = "token/"  # noqa: S105 - what the subject of its entries begins with
_ALWAYS_STORED = frozenset({"identity", "serial", "node", "not_after"})


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerReport:
    """A ledger that holds, and how much the tables beside it have.

    `unfinished` are the serials of all intents without a certificate.
    """

    size: int
    unnumbered: int
    certificates: int
    authorities: int
    bundles: int
    tokens: int
    unfinished: tuple[str, ...]


def check_database(url: str, key: LogKey, limits: StorageLimits) -> LedgerReport:
    """Check all of it. Blocks.

    Raises:
        AppError: `FAILED_PRECONDITION` naming the first thing that was changed, `UNAVAILABLE` when the database cannot
            be read, `INVALID` for a URL that is none.
    """
    with _reading(url, limits) as connection:
        return check_rows(connection, key)


def check_rows(connection: Connection, key: LogKey) -> LedgerReport:
    """The same over an open transaction.

    Raises:
        AppError: `FAILED_PRECONDITION` naming the first thing that was changed.
    """
    size = check_tree(connection, key, with_bytes=True)
    unnumbered = _check_unnumbered(connection)
    _check_columns(connection)
    issued = _check_certificates(connection)
    _check_intents(connection)
    recorded = recorded_authorities(_entries(connection, EntryKind.AUTHORITY_TRANSITION))
    return LedgerReport(
        size=size,
        unnumbered=unnumbered,
        certificates=issued,
        authorities=check_authorities(connection, recorded),
        bundles=check_bundles(connection, recorded),
        tokens=_check_tokens(connection),
        unfinished=tuple(_open_intents(connection)),
    )


@contextmanager
def _reading(url: str, limits: StorageLimits) -> Iterator[Connection]:
    engines = create_engines(parse_url(url), limits)
    try:
        with engines.reader.connect() as connection, connection.begin():
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql("SET LOCAL statement_timeout = 0")  # a million rows take seconds
            yield connection
    except SQLAlchemyError as error:
        raise as_app_error(error) from error
    finally:
        engines.dispose()


def _pages(connection: Connection, *conditions: Any) -> Iterator[Sequence[Row[Any]]]:
    last = 0
    while rows := connection.execute(
        select(ledger).where(ledger.c.id > last, *conditions).order_by(ledger.c.id).limit(_PAGE)
    ).all():
        last = rows[-1].id
        yield rows


def _entries(connection: Connection, kind: EntryKind, *conditions: Any) -> Iterator[tuple[LedgerEntry, str]]:
    """Entries and where they stand, in the order in which they came on record."""
    for rows in _pages(connection, ledger.c.kind == kind.value, *conditions):
        for row in rows:
            yield _entry(row), _where(row)


def _open_intents(connection: Connection) -> Iterator[str]:
    rows, last = SqlLedgerRows(connection), ""
    while intents := rows.open_intents(after=last, limit=_PAGE):
        yield from (intent.serial for intent in intents)
        last = intents[-1].serial


def _check_unnumbered(connection: Connection) -> int:
    count = 0
    for rows in _pages(connection, ledger.c.leaf_index.is_(None)):
        for row in rows:
            if leaf_hash(stored_bytes(row.data)) != stored_bytes(row.leaf_hash):
                raise damaged(f"the bytes of row {row.id} do not have the leaf hash that was stored with them")
        count += len(rows)
    return count


def _check_columns(connection: Connection) -> None:
    """Whether what entries are looked for by says what they say: nobody hides one by calling it something else."""
    for rows in _pages(connection):
        for row in rows:
            entry = _entry(row)
            recorded = {"kind": entry.kind.value, "subject": stored_text(entry.subject), "time": entry.time}
            for column, value in recorded.items():
                if getattr(row, column) != value:
                    raise damaged(f"the {column} beside {_where(row)} is not the one in it")


def _entry(row: Row[Any]) -> LedgerEntry:
    try:
        return LedgerEntry.from_bytes(bytes(row.data))
    except ValueError:
        raise damaged(f"{_where(row)} is none that this program writes") from None


def _where(row: Row[Any]) -> str:
    return f"the entry with index {row.leaf_index}" if row.leaf_index is not None else f"row {row.id}"


def _check_certificates(connection: Connection) -> int:
    """Whether the table that certificates are looked for in says what the entries say."""
    count = 0
    for rows in _pages(connection, ledger.c.kind == EntryKind.CERTIFICATE_ISSUED.value):
        found = {
            bytes(row.uid): row
            for row in connection.execute(select(certificates).where(certificates.c.uid.in_([r.uid for r in rows])))
        }
        for row in rows:
            certificate = found.get(bytes(row.uid))
            if certificate is None:
                raise damaged(f"the table of certificates misses the one of {_where(row)}")
            _compare(certificate, _entry(row), _where(row))
        count += len(rows)
    stored = connection.execute(select(func.count()).select_from(certificates)).scalar_one()
    if stored != count:
        raise damaged(f"the table of certificates has {stored} rows, the ledger recorded {count}")
    return count


def _check_intents(connection: Connection) -> None:
    """Whether every intent that has no certificate is in the table of those."""
    for rows in _pages(connection, ledger.c.kind == EntryKind.CERTIFICATE_INTENT.value):
        serials = {bytes(row.uid): str(_entry(row).detail.get("serial", "")) for row in rows}
        found: set[str] = set()
        for column in (certificates.c.serial, intents.c.serial):
            found.update(connection.execute(select(column).where(column.in_(set(serials.values())))).scalars())
        for row in rows:
            if serials[bytes(row.uid)] not in found:
                raise damaged(f"neither a certificate nor an open intent is listed for the intent of {_where(row)}")


def _check_tokens(connection: Connection) -> int:
    """Whether every token was made and revoked as the ledger says; it keeps neither secrets nor ends."""
    rows = {row.id: row for row in connection.execute(select(tokens).order_by(tokens.c.id))}
    said: dict[str, dict[str, tuple[Any, str]]] = {}
    for entry, where in _entries(connection, EntryKind.ADMIN_ACT, ledger.c.subject.startswith(_TOKEN)):
        token_id = entry.subject.removeprefix(_TOKEN)
        if entry.detail.get("act") == "token.create":
            made = {**_named(entry), "created_by": entry.actor, "created_at": entry.time, "revoked_at": None}
            said[token_id] = {column: (value, where) for column, value in made.items()}
        elif entry.detail.get("act") == "token.revoke" and token_id in said:
            said[token_id]["revoked_at"] = (entry.time, where)
    for token_id in rows.keys() - said.keys():
        raise damaged(f"the table of tokens has {token_id}, which no entry records")
    for token_id, columns in said.items():
        row = rows.get(token_id)
        for column, (value, where) in columns.items():
            if row is None:
                raise damaged(f"the table of tokens misses {token_id} of {where}")
            if getattr(row, column) != value:
                raise damaged(f"the table of tokens says another {column} of {token_id} than {where}")
    return len(rows)


def _named(entry: LedgerEntry) -> dict[str, Any]:
    return {name: entry.detail[name] for name in ("name", "role") if name in entry.detail}


def _compare(row: Row[Any], entry: LedgerEntry, where: str) -> None:
    is_old = not row.sha256  # stored before migration 0004, when some of the columns did not exist
    for column, value in zip(CERTIFICATE_COLUMNS, certificate_columns(entry), strict=True):
        stored = getattr(row, column)
        stored = microseconds(stored) if isinstance(stored, datetime) else stored
        if stored != value and not (is_old and column not in _ALWAYS_STORED and not stored):
            raise damaged(f"the table of certificates says another {column} than {where}")
