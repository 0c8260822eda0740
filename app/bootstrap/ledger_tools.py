"""What the owner of a host does with the ledger there, with settings and without a token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from app.authority.ledger.rollback_guard import Accepted, RollbackGuard
from app.bootstrap.clock import SystemClock
from app.bootstrap.numbering import read_pinned_key
from app.bootstrap.state import (
    accepted_losses_file,
    checkpoint_file,
    is_first_run,
    ledger_key_file,
    remembered_checkpoints,
)
from app.errors import AppError, ErrorCode
from app.ledger.checkpoint import Checkpoint, LogKey
from app.ledger.entry import EntryKind, LedgerEntry
from app.settings import Settings
from app.storage.checkpoint_file import CheckpointFile, read_accepted, read_note, write_accepted
from app.storage.database import Database
from app.storage.fsck import LedgerReport, check_database


async def check_ledger_offline(settings: Settings, key: LogKey | None) -> LedgerReport:
    """Every byte of the ledger in the database of these settings; without a key, by the one that this host keeps.

    Raises:
        AppError: `FAILED_PRECONDITION` naming the first thing that was changed.
    """
    key = key or read_pinned_key(ledger_key_file(settings))
    return await asyncio.to_thread(check_database, settings.database_url, key, settings.limits.storage)


async def accept_rollback(settings: Settings, *, reason: str) -> tuple[int, int]:
    """Go on with a database that is behind what is remembered: record the loss, and remember that it was accepted.

    Returns how many signed entries the database has, and how many were remembered.

    Raises:
        AppError: `FAILED_PRECONDITION` when nothing is lost, or a process uses the database.
    """
    if is_first_run(settings):
        raise AppError(ErrorCode.FAILED_PRECONDITION, f"nothing was set up in {settings.state_dir} yet")
    async with _open_database(settings) as database:
        key = read_pinned_key(ledger_key_file(settings))
        state = await database.ledger_state(max_counted=1)
        earlier = read_accepted(accepted_losses_file(settings))
        memory = CheckpointFile(checkpoint_file(settings))
        guard = RollbackGuard(database, key, memory, accepted=earlier)
        lost = [found for path in remembered_checkpoints(settings) if (found := await _contradiction(guard, path))]
        if not lost:
            raise AppError(
                ErrorCode.FAILED_PRECONDITION,
                "the database holds everything that is remembered on this host: there is no loss to accept",
            )
        greatest = max(lost, key=lambda checkpoint: checkpoint.size)
        # Where a history was replaced and not only cut off, what is kept of it is not known to be its beginning.
        size = state.size if all(checkpoint.size > state.size for checkpoint in lost) else 0
        await database.append(_entry(size, greatest, reason))
        await asyncio.to_thread(
            write_accepted, accepted_losses_file(settings), [*earlier, Accepted(size, greatest.size)]
        )
        if state.newest is None:
            checkpoint_file(settings).unlink(missing_ok=True)
        else:
            await asyncio.to_thread(memory.remember, state.newest.note)
        return state.size, greatest.size


async def _contradiction(guard: RollbackGuard, path: Path) -> Checkpoint | None:
    note = await asyncio.to_thread(read_note, path)
    try:
        await guard.check(note, str(path))
    except AppError as error:
        if error.code is ErrorCode.FAILED_PRECONDITION:
            return Checkpoint.parse(note)
        if error.code not in (ErrorCode.UNAUTHENTICATED, ErrorCode.MALFORMED):
            raise
    return None


def _entry(size: int, lost: Checkpoint, reason: str) -> LedgerEntry:
    return LedgerEntry(
        kind=EntryKind.ADMIN_ACT,
        time=SystemClock().now(),
        actor="system",
        subject="ledger",
        detail={"act": "accept-rollback", "reason": reason, "size": size, "lostCheckpoint": lost.note},
    )


@asynccontextmanager
async def _open_database(settings: Settings) -> AsyncIterator[Database]:
    database = await asyncio.to_thread(Database.open, settings.database_url, settings.limits.storage, migrate=False)
    try:
        yield database
    finally:
        await asyncio.to_thread(database.close)
