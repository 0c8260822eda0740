"""Engines: how connections to SQLite and PostgreSQL are made, and what every one of them is told.

SQLite: one writing connection in the whole process (it alone checkpoints), and reading connections that are
opened read-only, so that not even closing one can start a checkpoint.
PostgreSQL: every wait has an end (statement, lock, idle transaction, dead peer).
"""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool, StaticPool

from app.errors import AppError, ErrorCode
from app.limits import StorageLimits
from app.storage.many_rows import KEPT_STATEMENTS

_MIN_SQLITE = (3, 35, 0)  # RETURNING
WRITERS = 3  # PostgreSQL: lanes for administration, for the ledger, and for numbering it


@dataclass(frozen=True, slots=True)
class Engines:
    """The engine that writes and the engine that reads; `path` is the SQLite file, if it is one."""

    writer: Engine
    reader: Engine
    path: Path | None

    def dispose(self) -> None:
        """Close every connection, the writer's last: the last one out checkpoints."""
        self.reader.dispose()
        self.writer.dispose()


def parse_url(text: str) -> URL:
    """The database URL.

    Raises:
        AppError: `INVALID` when it is none of the two forms we know.
    """
    wanted = "a database URL reads sqlite:///<path> or postgresql+psycopg://<user>:<password>@<host>/<database>"
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        raise AppError(ErrorCode.INVALID, wanted) from error
    match url.drivername:
        case "sqlite" if url.database and url.database != ":memory:":
            return url
        case "postgresql" | "postgres" | "postgresql+psycopg":
            return url.set(drivername="postgresql+psycopg")
        case _:
            raise AppError(ErrorCode.INVALID, wanted)


def create_engines(url: URL, limits: StorageLimits) -> Engines:
    """Engines for a URL that `parse_url` accepted; nothing is connected yet."""
    if url.drivername == "sqlite":
        assert url.database is not None
        return _sqlite_engines(Path(url.database).absolute(), limits)
    return _postgres_engines(url, limits)


def _sqlite_engines(path: Path, limits: StorageLimits) -> Engines:
    if sqlite3.sqlite_version_info < _MIN_SQLITE:
        raise AppError(ErrorCode.FAILED_PRECONDITION, f"SQLite {sqlite3.sqlite_version} is too old; 3.35 is needed")

    def write_connection() -> sqlite3.Connection:
        # isolation_level None: the driver starts no transactions of its own; the begin event below does.
        return sqlite3.connect(
            path,
            timeout=limits.busy_timeout_seconds,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=KEPT_STATEMENTS,
        )

    def read_connection() -> sqlite3.Connection:
        return sqlite3.connect(
            f"file:{quote(os.fspath(path))}?mode=ro",
            uri=True,
            timeout=limits.busy_timeout_seconds,
            isolation_level=None,
            check_same_thread=False,
        )

    writer = create_engine("sqlite://", creator=write_connection, poolclass=StaticPool)
    reader = create_engine(
        "sqlite://",
        creator=read_connection,
        poolclass=QueuePool,
        pool_size=limits.pool_size,
        max_overflow=0,
        pool_timeout=limits.pool_timeout_seconds,
    )

    @event.listens_for(writer, "connect")
    def _prepare_writer(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
        for statement in (
            "PRAGMA journal_mode=WAL",
            "PRAGMA synchronous=FULL",  # NORMAL would not flush on commit: a power cut would lose acknowledged rows
            "PRAGMA foreign_keys=ON",
            "PRAGMA journal_size_limit=67108864",  # give the space of a large batch back at the next checkpoint
            "PRAGMA cell_size_check=ON",
            "PRAGMA trusted_schema=OFF",
        ):
            connection.execute(statement).close()

    @event.listens_for(writer, "begin")
    def _begin_writing(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    @event.listens_for(reader, "connect")
    def _prepare_reader(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
        for statement in ("PRAGMA query_only=ON", "PRAGMA wal_autocheckpoint=0", "PRAGMA trusted_schema=OFF"):
            connection.execute(statement).close()

    @event.listens_for(reader, "begin")
    def _begin_reading(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return Engines(writer, reader, path)


def _postgres_engines(url: URL, limits: StorageLimits) -> Engines:
    def milliseconds(seconds: float) -> int:
        return int(seconds * 1000)

    own_options = url.query.get("options", "")
    arguments: dict[str, object] = {
        "application_name": "gatehouse",
        "connect_timeout": max(2, int(limits.pool_timeout_seconds)),
        "target_session_attrs": "read-write",
        "keepalives": 1,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": milliseconds(limits.idle_in_transaction_seconds),
        "options": " ".join(
            f"-c {name}={value}"
            for name, value in (
                ("statement_timeout", milliseconds(limits.statement_timeout_seconds)),
                ("lock_timeout", milliseconds(limits.lock_timeout_seconds)),
                ("idle_in_transaction_session_timeout", milliseconds(limits.idle_in_transaction_seconds)),
                ("timezone", "UTC"),
            )
        )
        + (f" {own_options}" if isinstance(own_options, str) else ""),  # what the URL says comes last, and holds
    }
    writer = create_engine(
        url,
        connect_args=arguments,
        pool_size=WRITERS,
        max_overflow=0,
        pool_timeout=limits.pool_timeout_seconds,
        pool_pre_ping=True,
        isolation_level="READ COMMITTED",
    )
    reader = create_engine(
        url,
        connect_args=arguments,
        pool_size=limits.pool_size,
        max_overflow=0,
        pool_timeout=limits.pool_timeout_seconds,
        pool_pre_ping=True,
        isolation_level="REPEATABLE READ",  # one state for all statements of a unit
        execution_options={"postgresql_readonly": True},
    )

    @event.listens_for(writer, "connect")
    def _insist_on_durable_commits(connection: object, _entry: ConnectionPoolEntry) -> None:
        # An operator may choose more (remote_apply), never less: "off" acknowledges what a crash then loses.
        cursor = connection.cursor()  # type: ignore[attr-defined]
        cursor.execute("SHOW synchronous_commit")
        if cursor.fetchone()[0] == "off":
            cursor.execute("SET synchronous_commit = on")
        connection.commit()  # type: ignore[attr-defined]

    return Engines(writer, reader, None)
