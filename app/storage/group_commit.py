"""Group commit: one thread, one connection, many units of work in one durable transaction.

While a commit is being flushed, the next units queue up and then share the next one; so the price of a flush is
paid once for all that arrived meanwhile, and a lone unit waits for nobody. When units did queue up, the writer pauses
for a few milliseconds before the next commit, so that more of them share it: a commit costs as much CPU as a
signature does, and it takes the GIL from the event loop. Each unit runs in a SAVEPOINT: one that fails takes nobody
with it. Futures resolve after COMMIT returned, never before.

When a commit fails, nobody in it is told that it succeeded, unless it can be seen: where the connection was lost
during COMMIT, the entries are looked for once by their uid, and found ones mean that the whole transaction holds. It
is never sent a second time. After a failed flush of SQLite nothing more is written by this process at all
(see `failures.damage_of`).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import Connection, Engine, RootTransaction
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from app.errors import AppError, ErrorCode
from app.limits import StorageLimits
from app.storage.counters import advance
from app.storage.failures import Damage, StorageLostError, as_app_error, damage_of, describe
from app.storage.health import HEALTHY, StorageHealth
from app.storage.ledger_rows import PreparedEntry, has_entries, store_entries
from app.storage.transaction import SqlTransaction

_log = structlog.get_logger(__name__)
_UNITS_OWN = (ErrorCode.CONFLICT, ErrorCode.INVALID)
_PROBE_SECONDS = 1.0  # how often an idle writer looks whether the database takes commits again

Work = Callable[[SqlTransaction], Any]


@dataclass(slots=True, eq=False)
class Unit:
    """One caller's share of a commit: a function to run, or ledger entries alone (which need no SAVEPOINT)."""

    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    work: Work | None = None
    entries: Sequence[PreparedEntry] = ()
    quiet: bool = False  # whether nobody waits for what its work changes
    result: Any = None
    error: BaseException | None = None


@dataclass(slots=True)
class CommitFigures:
    """How much was grouped: for metrics and tests."""

    commits: int = 0
    units: int = 0
    failures: int = 0


class GroupCommit:
    """A writer thread over an engine.

    In that thread, `after_commit` is called whenever work was committed that others wait for, `after_entries`
    whenever ledger entries were, and `before_commit` before each commit; what it raises fails the commit.
    """

    def __init__(
        self,
        name: str,
        engine: Engine,
        limits: StorageLimits,
        *,
        after_commit: Callable[[], None],
        after_entries: Callable[[], None] = lambda: None,
        before_commit: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._limits = limits
        self._after_commit = after_commit
        self._after_entries = after_entries
        self._before_commit = before_commit
        self._queue: deque[Unit] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"storage-{name}", daemon=True)
        self.health = HEALTHY
        self.figures = CommitFigures()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Commit what is queued, then end the thread."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    @property
    def is_stalled(self) -> bool:
        """Whether the commit under way takes so long that nobody should queue up behind it who need not."""
        since = self._busy_since
        return since is not None and time.monotonic() - since > self._limits.stall_seconds

    def submit(
        self, *, work: Work | None = None, entries: Sequence[PreparedEntry] = (), quiet: bool = False
    ) -> asyncio.Future[Any]:
        """Queue a unit; call it on an event loop. Nobody is woken for the work of a `quiet` one.

        Raises:
            AppError: `OVERLOADED` when the queue is full, `UNAVAILABLE` when nothing is written any more.
        """
        if self.health.fatal:
            raise AppError(ErrorCode.UNAVAILABLE, self.health.reason)
        loop = asyncio.get_running_loop()
        unit = Unit(loop, loop.create_future(), work, entries, quiet)
        with self._wake:
            if self._stopping:
                raise AppError(ErrorCode.UNAVAILABLE, "the database is being closed")
            if len(self._queue) >= self._limits.max_queued_writes:
                raise AppError(ErrorCode.OVERLOADED, "too many writes are waiting for the database; try again")
            self._queue.append(unit)
            self._wake.notify()
        return unit.future

    def _run(self) -> None:
        while (batch := self._take()) is not None:
            try:
                self._busy_since = time.monotonic()
                self._commit(batch)
            except Exception as error:  # noqa: BLE001 - a dead writer would leave every later caller waiting
                _log.error("storage_writer_stumbled", error=repr(error))
            finally:
                self._busy_since = None
                crowded = bool(self._queue)  # asked before the answers, which make a lone caller come back
                answer(batch)
            if crowded:
                self._gather()

    def _gather(self) -> None:
        """Let more units come, unless the next commit is full or the last one."""
        if len(self._queue) < self._limits.max_batch_writes and not self._stopping:
            time.sleep(self._limits.gather_seconds)

    def _take(self) -> list[Unit] | None:
        """The next units; an empty list to probe an unhealthy database; None at the end."""
        with self._wake:
            while not self._queue:
                if self._stopping:
                    return None
                may_recover = not self.health.ok and not self.health.fatal
                if not self._wake.wait(_PROBE_SECONDS if may_recover else None) and may_recover:
                    return []
            size = min(len(self._queue), self._limits.max_batch_writes)
            taken = [self._queue.popleft() for _ in range(size)]
        return [unit for unit in taken if not unit.future.cancelled()]

    def _commit(self, batch: list[Unit]) -> None:
        if self.health.fatal:
            fail(batch, AppError(ErrorCode.UNAVAILABLE, self.health.reason))
            return
        committing = False
        entries: list[PreparedEntry] = []
        try:
            with self._engine.connect() as connection, _whole_transaction(connection) as transaction:
                if not any(unit.work or unit.entries for unit in batch):
                    advance(connection, "probe", 0)  # a write that changes nothing, to see whether one is possible
                for unit in batch:
                    entries.extend(_run_unit(connection, unit))
                _refuse_others(batch, store_entries(connection, entries))
                self._before_commit()
                committing = True
                transaction.commit()
        except Exception as error:  # noqa: BLE001 - the thread must outlive whatever a commit meets
            if not (committing and self._was_committed(entries, error)):
                try:
                    self._give_up(batch, error, committing=committing)
                finally:  # also when that stumbles: only what is known to be committed may look like it
                    fail(batch, AppError(ErrorCode.INTERNAL, "the write could not be stored", diagnosis=repr(error)))
                return
        self._succeeded(batch, has_ledger_entries=bool(entries))

    def _was_committed(self, entries: Sequence[PreparedEntry], error: Exception) -> bool:
        """Whether a COMMIT whose answer was lost has happened all the same. Not finding it proves nothing."""
        lost = isinstance(error, DBAPIError) and error.connection_invalidated
        if not entries or not (lost or self._engine.dialect.name == "postgresql"):
            return False
        try:
            with self._engine.connect() as connection:
                found = has_entries(connection, entries)
        except SQLAlchemyError:
            return False
        _log.warning("storage_commit_outcome_read", entries=len(entries), committed=found, error=repr(error))
        return found

    def _succeeded(self, batch: list[Unit], *, has_ledger_entries: bool) -> None:
        self.figures.commits += 1
        self.figures.units += len(batch)
        if not self.health.ok:
            self.health = HEALTHY
            _log.info("storage_recovered")
        if any(unit.work is not None and not unit.quiet for unit in batch):
            self._after_commit()
        if has_ledger_entries:
            self._after_entries()

    def _give_up(self, batch: list[Unit], error: Exception, *, committing: bool) -> None:
        self.figures.failures += 1
        if isinstance(error, SQLAlchemyError):
            outward = as_app_error(error)
            if outward.code in _UNITS_OWN:  # no unit did it: units have their SAVEPOINT
                outward = AppError(ErrorCode.INTERNAL, "the write could not be stored", diagnosis=outward.diagnosis)
        else:
            outward = AppError(ErrorCode.INTERNAL, "the write could not be stored", diagnosis=repr(error))
        is_lost = isinstance(error, StorageLostError)
        fatal = is_lost or (committing and damage_of(error) is Damage.FATAL)
        reason = describe(error) if isinstance(error, DBAPIError) else outward.detail
        if is_lost:
            outward, reason = AppError(ErrorCode.UNAVAILABLE, str(error)), str(error)
        elif fatal:
            reason = "a flush of the database failed; restart Gatehouse and check the disk before trusting it"
        self.health = StorageHealth(ok=False, reason=reason, fatal=fatal)
        fail(batch, AppError(outward.code, reason, diagnosis=outward.diagnosis))
        _log.error("storage_commit_failed", units=len(batch), fatal=fatal, diagnosis=outward.diagnosis)


@contextmanager
def _whole_transaction(connection: Connection) -> Iterator[RootTransaction]:
    """A transaction that leaves no trace when it fails, a failed COMMIT included.

    SQLAlchemy takes a transaction for over once COMMIT was sent; the connection may still be in it. SQLite's only
    writing connection is rolled back and kept; one to PostgreSQL is thrown away.
    """
    transaction = connection.begin()
    try:
        yield transaction
    except BaseException:
        if transaction.is_active:
            transaction.rollback()
        elif connection.dialect.name == "sqlite":
            connection.connection.rollback()
        else:
            connection.invalidate()
        raise


def _run_unit(connection: Connection, unit: Unit) -> Sequence[PreparedEntry]:
    """Run one unit in its SAVEPOINT; its own failure stays its own.

    Raises:
        SQLAlchemyError: when the failure took the whole transaction (or the connection) with it.
    """
    if unit.work is None:
        return unit.entries
    savepoint = connection.begin_nested()
    transaction = SqlTransaction(connection)
    try:
        unit.result = unit.work(transaction)
    except Exception as error:
        if connection.invalidated:
            raise
        try:
            savepoint.rollback()
        except SQLAlchemyError:
            raise error from None  # e.g. a full disk, upon which SQLite ends the whole transaction
        unit.error = as_app_error(error) if isinstance(error, SQLAlchemyError) else error
        return ()
    savepoint.commit()
    return transaction.entries


def _refuse_others(batch: list[Unit], others: frozenset[bytes]) -> None:
    """Fail the units of which an entry is on record with other bytes.

    Raises:
        AppError: `INTERNAL` when one did other work too, which must not be stored without its entries.
    """
    if not others:
        return
    error = AppError(ErrorCode.INTERNAL, "another ledger entry is stored under the id of this one")
    refused = [unit for unit in batch if any(prepared.uid in others for prepared in unit.entries)]
    if others - {prepared.uid for unit in refused for prepared in unit.entries}:
        raise error  # of a unit's work, whose entries have new ids: no case to go on from
    fail(refused, error)


def fail(batch: list[Unit], error: AppError) -> None:
    """Give every unit that has no failure of its own this one."""
    for unit in batch:
        if unit.error is None:
            unit.error = error


def answer(batch: list[Unit]) -> None:
    """Resolve the futures, with one wake-up for each event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Unit]] = {}
    for unit in batch:
        by_loop.setdefault(unit.loop, []).append(unit)
    for loop, units in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, units)
        except RuntimeError:  # the loop is closed: nobody waits any more
            _log.warning("storage_caller_gone", units=len(units))


def _resolve(units: list[Unit]) -> None:
    for unit in units:
        if unit.future.done():  # cancelled meanwhile
            continue
        if unit.error is not None:
            unit.future.set_exception(unit.error)
        else:
            unit.future.set_result(unit.result)
