"""Notices that the database went backwards, or has another history than was shown.

Whoever saw a checkpoint remembers it: this host in a file beside the database, each decision worker in its own folder.
A remembered checkpoint that our key signed and that the stored tree does not extend means that entries are lost or
were replaced. Then the authority refuses to work: a new log over the old one would make two histories of one.

What the owner of the host accepted as lost (`Accepted`) is not held against the database again.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from app.authority.ledger.ledger_ports import LedgerRows
from app.authority.store import Store
from app.errors import AppError, ErrorCode
from app.ledger.checkpoint import Checkpoint, LogKey
from app.ledger.frontier import range_hash

_log = structlog.get_logger(__name__)
_MAX_KNOWN = 1_024
_NEXT = (
    "restore the newer database; only if it is lost for good, stop Gatehouse and run "
    "`gatehouse audit accept-rollback --reason ...` on this host, which records the loss"
)


@dataclass(frozen=True, slots=True)
class Accepted:
    """A loss that was accepted: the history from `size` on, up to what a checkpoint of `lost_size` said."""

    size: int
    lost_size: int

    def covers(self, checkpoint: Checkpoint) -> bool:
        """Whether a remembered checkpoint is of the history that was given up."""
        return self.size < checkpoint.size <= self.lost_size


class CheckpointMemory(Protocol):
    """This host's high-water file."""

    def remember(self, note: str) -> None:
        """Keep a checkpoint durably in place of the one before; a no-op after `condemn`."""
        ...

    def condemn(self, note: str) -> None:
        """Keep a checkpoint that the database does not hold up to, so that the next start refuses too."""
        ...


class RollbackGuard:
    """Compares remembered checkpoints with the database."""

    def __init__(
        self, store: Store, key: LogKey, memory: CheckpointMemory, *, accepted: Sequence[Accepted] = ()
    ) -> None:
        self._store = store
        self._key = key
        self._memory = memory
        self._accepted = tuple(accepted)
        self._known: OrderedDict[str, None] = OrderedDict()
        self._failure: asyncio.Future[AppError] | None = None

    async def check(self, note: str, where: str) -> None:
        """Compare a checkpoint that was remembered somewhere.

        Raises:
            AppError: `FAILED_PRECONDITION` when the database is behind it or has another history; `UNAUTHENTICATED`
                or `MALFORMED` when it is not a checkpoint of this ledger; `UNAVAILABLE` when nobody knows.
        """
        if note in self._known:
            return
        checkpoint = self._key.verify(note)
        ours = await self._store.read(lambda transaction: _root_at(transaction.ledger, checkpoint.size))
        if ours.root != checkpoint.root and not any(loss.covers(checkpoint) for loss in self._accepted):
            raise AppError(ErrorCode.FAILED_PRECONDITION, _sentence(checkpoint, ours.size, where))
        self._known[note] = None
        while len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)

    async def hear(self, note: str, where: str) -> None:
        """Compare what a worker remembers; when the database does not hold up to it, this process is to end.

        Raises:
            AppError: `FAILED_PRECONDITION`, for the worker; `run` raises the same.
        """
        try:
            await self.check(note, where)
        except AppError as error:
            if error.code in (ErrorCode.UNAUTHENTICATED, ErrorCode.MALFORMED):
                _log.warning("remembered_checkpoint_ignored", where=where, reason=error.detail)
                return
            if error.code is ErrorCode.FAILED_PRECONDITION:
                await asyncio.to_thread(self._memory.condemn, note)
                self._fail(error)
            raise

    async def run(self) -> None:
        """Wait for a worker's memory to contradict the database.

        Raises:
            AppError: `FAILED_PRECONDITION`, which ends the process for good.
        """
        raise await self._future()

    def _fail(self, error: AppError) -> None:
        if not self._future().done():
            self._future().set_result(error)

    def _future(self) -> asyncio.Future[AppError]:
        if self._failure is None:
            self._failure = asyncio.get_running_loop().create_future()
        return self._failure


@dataclass(frozen=True, slots=True)
class _Ours:
    size: int
    root: bytes | None  # at the asked size; None when the tree is smaller


def _root_at(rows: LedgerRows, size: int) -> _Ours:
    newest = rows.newest_checkpoint()
    our_size = 0 if newest is None else newest.size
    if size > our_size:
        return _Ours(our_size, None)
    kept = rows.find_checkpoint(size)
    return _Ours(our_size, kept.root if kept is not None else range_hash(rows, 0, size))


def _sentence(checkpoint: Checkpoint, our_size: int, where: str) -> str:
    if checkpoint.size > our_size:
        return (
            f"the ledger went backwards: the database has {our_size} signed entries, and {where} remembers "
            f"{checkpoint.size}; {_NEXT}"
        )
    return (
        f"the ledger has another history: its first {checkpoint.size} entries are not those that {where} remembers; "
        f"{_NEXT}"
    )
