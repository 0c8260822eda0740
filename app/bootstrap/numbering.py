"""Opens the log of the ledger: its key, the check of what is stored, what is remembered, and who numbers."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

import structlog

from app.authority.ledger.read_ledger import ReadLedger
from app.authority.ledger.rollback_guard import RollbackGuard
from app.authority.ledger.sequencer import BoundedLedger, Sequencer
from app.authority.ports import Clock, Ledger
from app.bootstrap.state import accepted_losses_file, checkpoint_file, ledger_key_file, remembered_checkpoints
from app.durable_files import sync_folder, write_durably
from app.errors import AppError, ErrorCode
from app.keys.ledger_key import LEDGER_KEY, LedgerKey, Sealing
from app.ledger.checkpoint import LogKey, origin_of
from app.limits import LedgerLimits
from app.settings import Settings
from app.storage.checkpoint_file import CheckpointFile, read_accepted, read_note
from app.storage.database import Database
from app.telemetry import metrics

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbering:
    """The log at work; implements `app.authority.link_ports.CheckpointExchange`."""

    key: LedgerKey
    guard: RollbackGuard
    sequencer: Sequencer
    reader: ReadLedger
    limits: LedgerLimits

    def bounding(self, ledger: Ledger) -> Ledger:
        """A ledger that begins no new certificate while numbering is too far behind."""
        return BoundedLedger(ledger, self.sequencer, self.limits)

    async def hear(self, note: str, where: str) -> None:
        """Compare what a worker remembers with what is stored."""
        await self.guard.hear(note, where)

    def newest_note(self) -> str:
        """The newest checkpoint, to be remembered elsewhere; empty before the first."""
        newest = self.sequencer.newest
        return "" if newest is None else newest.note

    def count(self, now: float) -> None:
        """Bring the metrics up to date."""
        metrics.LEDGER_ENTRIES.set(self.sequencer.size)
        metrics.LEDGER_UNNUMBERED.set(self.sequencer.unnumbered)
        newest = self.sequencer.newest
        if newest is not None:
            metrics.LEDGER_CHECKPOINT_AGE.set(max(0.0, now - newest.time.timestamp()))


async def open_numbering(
    settings: Settings, database: Database, *, seal: Sealing, unseal: Sealing, clock: Clock
) -> Numbering:
    """Check what is stored against what was signed and what is remembered, and prepare to go on with it.

    Raises:
        AppError: `FAILED_PRECONDITION` when the ledger was changed, went backwards or has another history.
    """
    remembered = remembered_checkpoints(settings)
    known = [path for path in (*remembered, ledger_key_file(settings)) if path.exists()]
    if known and await database.get_sealed_key(LEDGER_KEY) is None:
        raise AppError(
            ErrorCode.FAILED_PRECONDITION,
            f"the database has no ledger, and {known[0]} remembers one, so this is not a first start; "
            "restore the database, for a new root would cut off every workload",
        )
    key = await LedgerKey.open(database, origin_of(settings.trust_domain), seal=seal, unseal=unseal)
    await asyncio.to_thread(_pin, key.public, ledger_key_file(settings))
    started = time.monotonic()
    size = await database.check_ledger(key.public, newest_entries=settings.limits.ledger.checked_at_start)
    _log.info("ledger_checked", entries=size, seconds=round(time.monotonic() - started, 3))
    memory = CheckpointFile(checkpoint_file(settings))
    guard = RollbackGuard(database, key.public, memory, accepted=read_accepted(accepted_losses_file(settings)))
    for path in remembered:
        await _compare(guard, path, own=path == checkpoint_file(settings))
    limits = settings.limits.ledger
    sequencer = Sequencer(database, key.sign, memory, clock=clock, limits=limits)
    return Numbering(
        key=key,
        guard=guard,
        sequencer=sequencer,
        reader=ReadLedger(database, key.public, limits=limits),
        limits=limits,
    )


def _pin(key: LogKey, path: Path) -> None:
    """Keep the public key beside the database, and notice when a database comes with another one."""
    if not path.exists():
        write_durably(path, f"{key}\n".encode())
        sync_folder(path.parent)
        return
    pinned = read_pinned_key(path)
    if pinned.origin != key.origin:
        raise AppError(
            ErrorCode.FAILED_PRECONDITION,
            f"the ledger here is {pinned.origin!r}, of another trust domain; set trust_domain back",
        )
    if pinned != key:
        raise AppError(
            ErrorCode.FAILED_PRECONDITION,
            f"the database has another ledger key than {path} says: restore the database that was used here before, or "
            "use another state directory",
        )


def read_pinned_key(path: Path) -> LogKey:
    """The public key that this host keeps.

    Raises:
        AppError: `FAILED_PRECONDITION` when there is none.
    """
    try:
        return LogKey.parse(read_note(path))
    except AppError as error:
        raise AppError(ErrorCode.FAILED_PRECONDITION, f"{path}: {error.detail}") from error


async def _compare(guard: RollbackGuard, path: Path, *, own: bool) -> None:
    """Our own file must hold; a worker's may be of another installation, whose key then is not ours."""
    try:
        await guard.check(await asyncio.to_thread(read_note, path), str(path))
    except AppError as error:
        if error.code not in (ErrorCode.UNAUTHENTICATED, ErrorCode.MALFORMED):
            raise
        if not own:
            _log.warning("remembered_checkpoint_ignored", where=str(path), reason=error.detail)
            return
        raise AppError(
            ErrorCode.FAILED_PRECONDITION,
            f"{path} does not belong to this database ({error.detail}): restore the database that was used here "
            "before, or use another state directory",
        ) from error
