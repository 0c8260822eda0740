"""The database of the authority process.

One object implements every storage port: reads run on a small pool of threads, writes are grouped by
`group_commit`. On SQLite there is one writer for everything; on PostgreSQL the ledger has a lane of its own, so
that issuing does not wait for a large batch of policies, and numbering has another.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self, TypeVar

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from app.authority.authorities.authority_ports import StoredAuthority
from app.authority.ledger.ledger_ports import LedgerState, Sign, Turn
from app.authority.ports import InventoryContents, SnapshotDelta
from app.durable_files import sync_folder
from app.errors import AppError, ErrorCode
from app.ledger.checkpoint import LogKey
from app.ledger.entry import EntryKind, LedgerEntry
from app.limits import StorageLimits
from app.storage import authority_rows, ledger_head
from app.storage.changes import Changes
from app.storage.counters import value_of
from app.storage.engines import Engines, create_engines, parse_url
from app.storage.failures import StorageLostError, as_app_error
from app.storage.file_lock import FileLock
from app.storage.group_commit import CommitFigures, GroupCommit
from app.storage.health import HEALTHY, StorageHealth
from app.storage.ledger_check import check_tree
from app.storage.ledger_rows import PreparedEntry
from app.storage.migrate import bring_up_to_date
from app.storage.tables import ledger
from app.storage.transaction import SqlTransaction

T = TypeVar("T")

__all__ = ["Database", "StorageHealth"]


class Database:
    """An open database; implements the ports Store, Ledger, AuthorityStore, InventoryStore and SnapshotSource.

    `with Database.open(url, limits) as database:`; every method that waits is async and may be called from any
    event loop of the process.
    """

    def __init__(self, engines: Engines, limits: StorageLimits, lock: FileLock | None) -> None:
        """Use `open`."""
        self._engines = engines
        self._limits = limits
        self._lock = lock
        self._changes = Changes()
        self._entries = Changes()
        self._place = None if engines.path is None else _Place.of(engines.path)
        self._readers = ThreadPoolExecutor(limits.pool_size, thread_name_prefix="storage-read")
        self._pending_reads = 0
        self._closed = False
        self._poll_seconds = limits.change_poll_seconds if engines.path is None else None
        self._administration = self._lane("write")
        # SQLite has one writer, so both lanes are one there.
        self._ledger = self._lane("ledger") if engines.path is None else self._administration
        self._numbering = self._lane("number") if engines.path is None else self._administration
        self._lanes = tuple(dict.fromkeys((self._administration, self._ledger, self._numbering)))

    @classmethod
    def open(cls, url: str, limits: StorageLimits, *, migrate: bool = True) -> Self:
        """Connect, lock (SQLite), migrate, start the threads. Blocks; call it before the event loop serves.

        `url` is `sqlite:///<absolute path>` or `postgresql+psycopg://...`.

        Raises:
            AppError: `INVALID` for another URL; `FAILED_PRECONDITION` when another process owns the file, or the
                schema is newer than this program or (with `migrate=False`) older; `UNAVAILABLE` when the
                database cannot be reached.
        """
        engines = create_engines(parse_url(url), limits)
        lock = _lock_file(engines.path) if engines.path else None
        try:
            with engines.writer.connect() as connection, connection.begin():
                bring_up_to_date(connection, migrate=migrate)
            if engines.path:
                sync_folder(engines.path.parent)
        except BaseException as error:
            engines.dispose()
            if lock:
                lock.release()
            if isinstance(error, SQLAlchemyError):
                raise _cannot_open(error) from error
            raise
        database = cls(engines, limits, lock)
        for lane in database._lanes:
            lane.start()
        return database

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Finish what is queued, stop the threads, close every connection, release the lock."""
        self._closed = True
        for lane in self._lanes:
            lane.stop()
        self._readers.shutdown()
        self._engines.dispose()
        if self._lock:
            self._lock.release()

    def health(self) -> StorageHealth:
        """Whether writes can be acknowledged right now; for readiness and for the supervisor."""
        return next((lane.health for lane in self._lanes if not lane.health.ok), HEALTHY)

    def figures(self) -> CommitFigures:
        """How many commits carried how many units since the start."""
        return CommitFigures(
            commits=sum(lane.figures.commits for lane in self._lanes),
            units=sum(lane.figures.units for lane in self._lanes),
            failures=sum(lane.figures.failures for lane in self._lanes),
        )

    # Store

    async def read(self, work: Callable[[SqlTransaction], T]) -> T:
        """See `app.authority.store.Store.read`."""
        if self._pending_reads >= self._limits.max_queued_reads:
            raise AppError(ErrorCode.OVERLOADED, "too many reads are waiting for the database; try again")
        if self._closed:
            raise AppError(ErrorCode.UNAVAILABLE, "the database is being closed")
        self._pending_reads += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, self._read_now, work)
        finally:
            self._pending_reads -= 1

    async def write(self, work: Callable[[SqlTransaction], T]) -> T:
        """See `app.authority.store.Store.write`."""
        result: T = await self._administration.submit(work=work)
        return result

    # Ledger

    async def append(self, entry: LedgerEntry) -> None:
        """See `app.authority.ports.Ledger.append`.

        An intent is refused at once while a commit hangs: nothing has happened yet that would need a record.
        """
        if entry.kind is EntryKind.CERTIFICATE_INTENT:
            self.refuse_when_stalled()
        await self.store((PreparedEntry.prepare(entry),))

    async def store(self, entries: Sequence[PreparedEntry]) -> None:
        """Store entries that have their uid already; one that is stored is left alone, so that this may be repeated.

        Raises:
            AppError: `UNAVAILABLE` when they are not certain to be stored; as `Ledger.append`.
        """
        await self._ledger.submit(entries=entries)

    def refuse_when_stalled(self) -> None:
        """Let nobody queue up behind a commit that hangs.

        Raises:
            AppError: `UNAVAILABLE` when one does.
        """
        if self._ledger.is_stalled:
            raise AppError(ErrorCode.UNAVAILABLE, "the database does not answer; try again")

    async def read_ledger(self, first: int, limit: int) -> tuple[tuple[int, bytes, bytes], ...]:
        """Entries in the order in which they were stored, numbered or not: (place, canonical bytes, leaf hash)."""

        def work(transaction: SqlTransaction) -> tuple[tuple[int, bytes, bytes], ...]:
            query = select(ledger.c.data, ledger.c.leaf_hash).order_by(ledger.c.id).offset(first).limit(limit)
            rows = transaction.connection.execute(query)
            return tuple((first + n, bytes(row.data), bytes(row.leaf_hash)) for n, row in enumerate(rows))

        return await self.read(work)

    # SequencerStore

    async def sequence(self, turn: Turn, sign: Sign) -> int:
        """See `app.authority.ledger.ledger_ports.SequencerStore.sequence`."""
        numbered: int = await self._numbering.submit(
            work=lambda transaction: ledger_head.sequence(transaction.connection, turn, sign), quiet=True
        )
        return numbered

    async def thin_checkpoints(self, *, keep: int) -> int:
        """See `app.authority.ledger.ledger_ports.SequencerStore.thin_checkpoints`."""
        result: int = await self._numbering.submit(
            work=lambda transaction: ledger_head.thin_checkpoints(transaction.connection, keep=keep), quiet=True
        )
        return result

    async def ledger_state(self, *, max_counted: int) -> LedgerState:
        """See `app.authority.ledger.ledger_ports.SequencerStore.ledger_state`."""
        return await self.read(lambda transaction: transaction.ledger.state(max_counted=max_counted))

    async def check_ledger(self, key: LogKey, *, newest_entries: int | None = None, with_bytes: bool = False) -> int:
        """Compare what is stored with what was signed, see `app.storage.ledger_check.check_tree`; the tree's size."""
        return await self.read(
            lambda transaction: check_tree(
                transaction.connection, key, newest_entries=newest_entries, with_bytes=with_bytes
            )
        )

    async def wait_for_entries(self, seconds: float) -> None:
        """See `app.authority.ledger.ledger_ports.SequencerStore.wait_for_entries`."""
        await self._entries.wait(seconds)

    # AuthorityStore

    async def list_authorities(self) -> Sequence[StoredAuthority]:
        """See `app.authority.ports.AuthorityStore.list_authorities`."""
        return await self.read(lambda transaction: transaction.authorities.list())

    async def get_sealed_key(self, name: str) -> bytes | None:
        """See `app.authority.ports.AuthorityStore.get_sealed_key`."""
        return await self.read(lambda transaction: authority_rows.find_sealed_key(transaction.connection, name))

    async def put_sealed_key(self, name: str, sealed: bytes) -> bytes:
        """See `app.authority.ports.AuthorityStore.put_sealed_key`."""
        return await self.write(
            lambda transaction: authority_rows.keep_sealed_key(transaction.connection, name, sealed)
        )

    # InventoryStore

    async def read_inventory(self, *, known_generation: int = -1) -> InventoryContents | None:
        """See `app.authority.ports.InventoryStore.read_inventory`."""

        def work(transaction: SqlTransaction) -> InventoryContents | None:
            rows = transaction.inventory
            generation = rows.generation()
            if generation == known_generation:
                return None
            return InventoryContents(
                generation,
                workloads=tuple(rows.workloads().values()),
                services=tuple(rows.services().values()),
                nodes=tuple(rows.nodes().values()),
            )

        return await self.read(work)

    async def read_leases(self) -> Mapping[str, datetime]:
        """See `app.authority.ports.InventoryStore.read_leases`."""
        return await self.read(lambda transaction: transaction.inventory.leases())

    # SnapshotSource

    async def read_delta(self, since_number: int) -> SnapshotDelta:
        """See `app.authority.ports.SnapshotSource.read_delta`."""
        return await self.read(lambda transaction: transaction.read_delta(since_number))

    async def wait_for_change(self, number: int, seconds: float) -> bool:
        """Wait until the snapshot number is greater than `number`; False when the time is over.

        Changes of this process are noticed at once, those of other replicas within half a second.

        Raises:
            AppError: `UNAVAILABLE` when the database cannot be asked.
        """

        async def reached() -> bool:
            return await self.read(lambda transaction: value_of(transaction.connection, "snapshot")) > number

        return await self._changes.wait_until(reached, seconds, poll_seconds=self._poll_seconds)

    def _lane(self, name: str) -> GroupCommit:
        return GroupCommit(
            name,
            self._engines.writer,
            self._limits,
            after_commit=self._changes.notify,
            after_entries=self._entries.notify,
            before_commit=self._check_place,
        )

    def _check_place(self) -> None:
        """Whether the file is still where the next start looks for it; a deleted one would take commits for ever."""
        if self._place is not None:
            self._place.check()

    def _read_now(self, work: Callable[[SqlTransaction], T]) -> T:
        try:
            with self._engines.reader.connect() as connection, connection.begin():
                transaction = SqlTransaction(connection)
                result = work(transaction)
                assert not transaction.entries, "a unit that only reads recorded something"
                return result
        except SQLAlchemyError as error:
            raise as_app_error(error) from error


@dataclass(frozen=True, slots=True)
class _Place:
    """A file under its name."""

    path: Path
    identity: tuple[int, int]

    @classmethod
    def of(cls, path: Path) -> Self:
        found = path.stat()
        return cls(path, (found.st_dev, found.st_ino))

    def check(self) -> None:
        try:
            here = self.path.stat()
        except OSError:
            here = None
        if here is None or (here.st_dev, here.st_ino) != self.identity:
            raise StorageLostError(
                f"the database file {self.path} was removed or replaced while Gatehouse runs: stop Gatehouse and "
                "restore the database; nothing is recorded until then"
            )


def _lock_file(path: Path) -> FileLock:
    if not path.parent.is_dir():
        raise AppError(ErrorCode.UNAVAILABLE, f"the folder {path.parent} does not exist: create it first")
    lock = FileLock(path.with_name(path.name + ".lock"))
    lock.acquire()
    try:
        # SQLite gives its -wal and -shm files the mode of the database.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        lock.release()
        raise AppError(ErrorCode.UNAVAILABLE, f"cannot write {path}: {error.strerror}") from error
    return lock


def _cannot_open(error: SQLAlchemyError) -> AppError:
    mapped = as_app_error(error)
    first_line = mapped.diagnosis.splitlines()[0] if mapped.diagnosis else "no reason was given"
    return AppError(ErrorCode.UNAVAILABLE, f"the database cannot be opened ({first_line})", diagnosis=mapped.diagnosis)
