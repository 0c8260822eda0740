"""What a database error means for the caller and for the process."""

from __future__ import annotations

import sqlite3
from enum import Enum

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.errors import AppError, ErrorCode

_TRY_AGAIN = "the database is not available; nothing is certain to be stored; try again"


class Damage(Enum):
    """How bad a failed commit is."""

    PASSING = "passing"  # the next commit may well hold
    FATAL = "fatal"  # a flush failed: what the file holds is only known after a restart


class StorageLostError(Exception):
    """The database is not where it was opened: what is committed to it is lost. The text is for the operator."""


def as_app_error(error: SQLAlchemyError) -> AppError:
    """The error that leaves the storage room."""
    diagnosis = f"{type(error).__name__}: {getattr(error, 'orig', None) or error}"
    if isinstance(error, IntegrityError):
        return AppError(ErrorCode.CONFLICT, "it exists already; read again and decide anew", diagnosis=diagnosis)
    if isinstance(error, DataError):
        return AppError(ErrorCode.INVALID, "a value is not one that the database can hold", diagnosis=diagnosis)
    if isinstance(error, PoolTimeoutError):
        return AppError(ErrorCode.OVERLOADED, "all database connections are busy; try again", diagnosis=diagnosis)
    if isinstance(error, DBAPIError):
        return AppError(ErrorCode.UNAVAILABLE, describe(error), diagnosis=diagnosis)
    return AppError(ErrorCode.INTERNAL, "the database could not be asked", diagnosis=diagnosis)


def describe(error: DBAPIError) -> str:
    """One sentence for callers and for readiness; names a full disk, because an operator can end that."""
    if is_disk_full(error):
        return "the disk of the database is full; nothing was stored; free space and try again"
    return _TRY_AGAIN


def is_disk_full(error: DBAPIError) -> bool:
    """Whether space ran out (SQLite's SQLITE_FULL, PostgreSQL's class 53100)."""
    if isinstance(error.orig, sqlite3.Error):
        return _sqlite_code(error.orig) & 0xFF == sqlite3.SQLITE_FULL
    return getattr(error.orig, "sqlstate", None) == "53100"


def damage_of(error: BaseException) -> Damage:
    """Whether a failed commit can be followed by another try.

    After a failed fsync the kernel may have dropped the pages and report success the next time, so an I/O error
    of SQLite ends the writing of this process. PostgreSQL panics by itself and recovers from its log.
    """
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, sqlite3.Error):
        code = _sqlite_code(cause)
        if code == sqlite3.SQLITE_IOERR_SHMSIZE:  # the shared-memory file could not grow: a full disk again
            return Damage.PASSING
        if code & 0xFF in {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            return Damage.FATAL
    return Damage.PASSING


def _sqlite_code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) or 0
