"""The replica's journal: ledger entries that are durable here and not yet in the database.

An append-only file in segments, written by one thread: whatever queued up while a flush ran shares the next one.
Returning from `append` means flushed, in a folder whose names are flushed too. Entries leave at the front, in order,
when somebody says that they are stored elsewhere (`forget`); a segment without waiting entries is removed.

After a flush or a write that failed with anything but "no space", nothing more is acknowledged by this process: the
kernel may have dropped the pages and report success the next time (`health.fatal`; a restart reads what is there).
A torn end is cut off when the journal is opened, because nobody was promised it; a hole in the middle is refused.
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import structlog

from app.errors import AppError, ErrorCode
from app.limits import JournalLimits
from app.storage.file_lock import FileLock
from app.storage.group_commit import Unit, answer, fail
from app.storage.health import HEALTHY, StorageHealth
from app.storage.journal_file import OVERHEAD_BYTES, Frame, HoleError, read_frames, survey
from app.storage.ledger_rows import PreparedEntry

_log = structlog.get_logger(__name__)

_SUFFIX = ".journal"
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_READ_BYTES = 1_048_576


@dataclass(slots=True)
class _Segment:
    """A file of the journal: the sequences it holds and where its flushed bytes end."""

    path: Path
    first: int
    last: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What waits in the journal."""

    entries: int
    size_bytes: int


class Journal:
    """An open journal. Call `start` before the first `append`; `close` flushes what is queued.

    `append` is for an event loop; `read` and `forget` block and belong in a thread.
    """

    def __init__(self, folder: Path, limits: JournalLimits, lock: FileLock) -> None:
        """Use `open`."""
        self._folder = folder
        self._limits = limits
        self._lock = lock
        self._segments: deque[_Segment] = deque()
        self._descriptor = -1  # of the last segment
        self._front = 0  # offset in the first segment where the waiting entries begin
        self._next = 1
        self._forgotten = 0  # the last sequence that left
        self._waiting_bytes = 0
        self._files = threading.RLock()
        self._queue: deque[Unit] = deque()
        self._queued_bytes = 0
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self.health: StorageHealth = HEALTHY
        self.flushes = 0

    @classmethod
    def open(cls, folder: Path, limits: JournalLimits) -> Self:
        """Lock the folder (made when it is missing), read what is there and cut off a torn end. Blocks.

        Raises:
            AppError: `FAILED_PRECONDITION` when another process uses it, when it cannot be read or written, or when
                an entry that was acknowledged is missing or damaged; the text says how to go on.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = FileLock(folder / "lock", what="journal", rule="journal")
            lock.acquire()
            journal = cls(folder, limits, lock)
            try:
                journal._recover()
            except BaseException:
                journal._release()
                raise
        except OSError as error:
            raise AppError(
                ErrorCode.FAILED_PRECONDITION,
                f"the journal {folder} cannot be opened: {error.strerror}; check the folder and its disk",
            ) from error
        return journal

    def start(self) -> None:
        """Start the thread that writes."""
        self._thread.start()

    def close(self) -> None:
        """Flush what is queued, end the thread, release the lock."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.ident is not None:
            self._thread.join()
        self._release()

    def backlog(self) -> Backlog:
        """How much waits, flushed."""
        return Backlog(entries=self._next - 1 - self._forgotten, size_bytes=self._waiting_bytes)

    async def append(self, prepared: PreparedEntry) -> None:
        """Record one entry; returning means that it is flushed.

        Raises:
            AppError: `UNAVAILABLE` when the journal is full, the disk is, or a flush failed.
        """
        if self.health.fatal:
            raise AppError(ErrorCode.UNAVAILABLE, self.health.reason)
        unit = Unit(asyncio.get_running_loop(), asyncio.get_running_loop().create_future(), entries=(prepared,))
        with self._wake:
            if self._stopping:
                raise AppError(ErrorCode.UNAVAILABLE, "the journal is being closed")
            self._refuse_when_full(prepared)
            self._queue.append(unit)
            self._queued_bytes += len(prepared.data) + OVERHEAD_BYTES
            self._wake.notify()
        await unit.future

    def read(self, max_entries: int) -> Sequence[tuple[int, bytes, bytes]]:
        """The oldest waiting entries, in order: (sequence, uid, canonical bytes). They stay until `forget`.

        Raises:
            AppError: `UNAVAILABLE` when the file cannot be read or is no longer what was written.
        """
        with self._files:
            while len(self._segments) > 1 and self._front >= self._segments[0].end:
                self._drop_first()
            segment = self._segments[0]
            buffer = self._read_bytes(segment)
            found: list[tuple[int, bytes, bytes]] = []
            for frame, _ in read_frames(buffer):
                if len(found) == max_entries or frame.sequence != self._forgotten + 1 + len(found):
                    break
                found.append((frame.sequence, frame.uid, frame.data))
            if not found and self._forgotten < segment.last:
                raise AppError(
                    ErrorCode.UNAVAILABLE, f"the journal {segment.path} can no longer be read; look at its disk"
                )
            return found

    def forget(self, entries: Sequence[tuple[int, bytes, bytes]]) -> None:
        """Let entries go that `read` returned, from the oldest on: they are stored elsewhere, durably.

        What this cannot remove for lack of space or by a failing disk is read, and stored, once more after a restart.
        """
        with self._files:
            for sequence, _, data in entries:
                assert sequence == self._forgotten + 1, "entries leave the journal in order"
                size = len(data) + OVERHEAD_BYTES
                self._forgotten, self._front = sequence, self._front + size
                self._waiting_bytes -= size
            while len(self._segments) > 1 and self._front >= self._segments[0].end:
                self._drop_first()
            segment = self._segments[0]
            if len(self._segments) == 1 and segment.end and self._front >= segment.end and not self.health.fatal:
                try:
                    self._begin_segment()
                except OSError as error:
                    _log.warning("journal_not_emptied", reason=error.strerror)
                else:
                    self._drop_first()

    # Writing, in the journal's thread.

    def _run(self) -> None:
        while (batch := self._take()) is not None:
            try:
                self._write(batch)
            except OSError as error:
                self._give_up(batch, error)
            except Exception as error:  # noqa: BLE001 - a dead writer would leave every later caller waiting
                _log.error("journal_writer_stumbled", error=repr(error))
                self._fatal(batch, f"the journal stumbled ({type(error).__name__}); restart Gatehouse")
            finally:
                answer(batch)

    def _take(self) -> list[Unit] | None:
        with self._wake:
            while not self._queue:
                if self._stopping:
                    return None
                self._wake.wait()
            taken, self._queue = list(self._queue), deque()
            self._queued_bytes = 0
        return [unit for unit in taken if not unit.future.cancelled()]

    def _write(self, batch: list[Unit]) -> None:
        if not batch:
            return
        if self.health.fatal:
            fail(batch, AppError(ErrorCode.UNAVAILABLE, self.health.reason))
            return
        with self._files:
            if self._segments[-1].end >= self._limits.segment_bytes:
                self._begin_segment()
            segment, flushed = self._segments[-1], self._next - 1
            data = b"".join(
                Frame(
                    sequence=self._next + number, flushed=flushed, uid=unit.entries[0].uid, data=unit.entries[0].data
                ).to_bytes()
                for number, unit in enumerate(batch)
            )
            try:
                _write_at(self._descriptor, data, segment.end)
            except OSError:
                # Back to the last whole frame, or nothing may ever follow it.
                os.ftruncate(self._descriptor, segment.end)
                raise
            try:
                os.fdatasync(self._descriptor)
            except OSError as error:
                raise _FlushError(error.errno, error.strerror) from error
            self.flushes += 1
            self._next += len(batch)
            self._waiting_bytes += len(data)
            segment.last, segment.end = self._next - 1, segment.end + len(data)
        if not self.health.ok:
            self.health = HEALTHY
            _log.info("journal_recovered")

    def _give_up(self, batch: list[Unit], error: OSError) -> None:
        if isinstance(error, _FlushError) or error.errno not in _NO_SPACE:
            self._fatal(batch, "a write of the journal failed; restart Gatehouse and check the disk before trusting it")
        else:
            self.health = StorageHealth(ok=False, reason="the disk of the journal is full; free space and try again")
            fail(batch, AppError(ErrorCode.UNAVAILABLE, self.health.reason))
        _log.error("journal_write_failed", entries=len(batch), fatal=self.health.fatal, error=repr(error))

    def _fatal(self, batch: list[Unit], reason: str) -> None:
        self.health = StorageHealth(ok=False, reason=reason, fatal=True)
        fail(batch, AppError(ErrorCode.UNAVAILABLE, reason))

    def _refuse_when_full(self, prepared: PreparedEntry) -> None:
        backlog, limits = self.backlog(), self._limits
        if backlog.entries + len(self._queue) >= limits.max_entries:
            raise AppError(
                ErrorCode.UNAVAILABLE,
                f"the journal is full: {limits.max_entries} entries wait for the database (limits.journal.max_entries)",
            )
        if backlog.size_bytes + self._queued_bytes + len(prepared.data) + OVERHEAD_BYTES > limits.max_bytes:
            raise AppError(
                ErrorCode.UNAVAILABLE,
                f"the journal is full: {limits.max_bytes} bytes wait for the database (limits.journal.max_bytes)",
            )

    # Files.

    def _recover(self) -> None:
        paths = sorted(self._folder.glob(f"*{_SUFFIX}"))
        for number, path in enumerate(paths):
            first = _first_sequence(path)
            if self._segments and first != self._segments[-1].last + 1:
                raise _damaged(self._folder, self._segments[-1].last + 1)
            try:
                found = survey(path.read_bytes(), first)
            except HoleError as hole:
                raise _damaged(self._folder, hole.sequence) from hole
            if found.is_torn:
                if number != len(paths) - 1:
                    raise _damaged(self._folder, found.last_sequence + 1)
                _cut_off(path, found.end)
                _log.warning("journal_end_cut_off", file=path.name, lost_bytes=found.size - found.end)
            self._segments.append(_Segment(path, first, found.last_sequence, found.end))
        if self._segments:
            self._forgotten = self._segments[0].first - 1
            self._next = self._segments[-1].last + 1
            self._waiting_bytes = sum(segment.end for segment in self._segments)
            self._descriptor = os.open(self._segments[-1].path, os.O_RDWR | os.O_CLOEXEC)
            # What a process before us wrote and could not flush is about to count as durable.
            os.fsync(self._descriptor)
        else:
            self._begin_segment()

    def _begin_segment(self) -> None:
        path = self._folder / f"{self._next:020d}{_SUFFIX}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.fsync(descriptor)
            _flush_folder(self._folder)
        except OSError as error:
            os.close(descriptor)
            raise _FlushError(error.errno, error.strerror) from error
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = descriptor
        self._segments.append(_Segment(path, self._next, self._next - 1, 0))

    def _drop_first(self) -> None:
        segment = self._segments.popleft()
        self._front -= segment.end
        try:
            segment.path.unlink(missing_ok=True)
            _flush_folder(self._folder)
        except OSError as error:
            _log.warning("journal_segment_kept", file=segment.path.name, reason=error.strerror)

    def _read_bytes(self, segment: _Segment) -> bytes:
        """What follows the front of a segment: at least one whole frame, if there is one."""
        try:
            with segment.path.open("rb", buffering=0) as file:
                size = _READ_BYTES
                while True:
                    wanted = min(size, segment.end - self._front)
                    buffer = os.pread(file.fileno(), wanted, self._front)
                    if next(read_frames(buffer), None) is not None or wanted < size:
                        return buffer
                    size *= 8
        except OSError as error:
            raise AppError(
                ErrorCode.UNAVAILABLE, f"the journal {segment.path} cannot be read: {error.strerror}; look at its disk"
            ) from error

    def _release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._lock.release()


class _FlushError(OSError):
    """A flush failed; what the file holds is known after a restart only."""


def _write_at(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _first_sequence(path: Path) -> int:
    try:
        return int(path.name.removesuffix(_SUFFIX))
    except ValueError:
        raise AppError(
            ErrorCode.FAILED_PRECONDITION, f"{path} is not a file of a journal; move it out of the folder"
        ) from None


def _cut_off(path: Path, end: int) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.ftruncate(descriptor, end)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _damaged(folder: Path, sequence: int) -> AppError:
    return AppError(
        ErrorCode.FAILED_PRECONDITION,
        f"the journal {folder} is damaged: entry {sequence} was acknowledged and cannot be read; restore the folder "
        "from a copy of this disk, or move it away to go on without the certificates that only it has on record",
    )
