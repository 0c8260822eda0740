"""The journal: what was acknowledged is there again, whatever the end of the file looks like, and a hole is never passed over."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from app.errors import AppError, ErrorCode
from app.ledger.entry import EntryKind, LedgerEntry
from app.limits import JournalLimits
from app.storage.journal import Journal
from app.storage.journal_file import Frame, HoleError, survey
from app.storage.ledger_rows import PreparedEntry

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def prepared(number: int, *, size: int = 0) -> PreparedEntry:
    entry = LedgerEntry(
        kind=EntryKind.CERTIFICATE_INTENT, time=NOW, actor="a", subject=str(number), detail={"pad": "x" * size}
    )
    return PreparedEntry.prepare(entry)


@contextmanager
def opened(folder: Path, **limits: Any) -> Iterator[Journal]:
    journal = Journal.open(folder, JournalLimits(**limits))
    journal.start()
    try:
        yield journal
    finally:
        journal.close()


def subjects(journal: Journal) -> list[str]:
    """Everything that waits, in order; takes it out."""
    found: list[str] = []
    while batch := journal.read(7):
        found += [LedgerEntry.from_bytes(data).subject for _, _, data in batch]
        journal.forget(batch)
    return found


def numbers(count: int, first: int = 0) -> list[str]:
    return [str(number) for number in range(first, first + count)]


async def append(journal: Journal, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        await journal.append(prepared(number))


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.journal"))


async def refused(call: Any) -> AppError:
    with pytest.raises(AppError) as failure:
        await call
    return failure.value


async def test_entries_are_there_again_after_a_restart_in_order_with_their_uid_and_bytes(tmp_path: Path) -> None:
    """What was acknowledged survives, byte for byte, and leaves when it was stored elsewhere."""
    first = prepared(0)
    with opened(tmp_path / "j") as journal:
        await journal.append(first)
        await append(journal, 9, first=1)
    with opened(tmp_path / "j") as journal:
        assert 10 == journal.backlog().entries
        assert [(1, first.uid, first.data)] == list(journal.read(1))
        assert numbers(10) == subjects(journal)
        assert (0, 0) == (journal.backlog().entries, journal.backlog().size_bytes)
    with opened(tmp_path / "j") as journal:
        assert [] == subjects(journal)


async def test_what_left_stays_away_and_the_numbering_goes_on(tmp_path: Path) -> None:
    """Partly drained, restarted, filled again: nothing is lost; what was in an unfinished segment may come twice."""
    with opened(tmp_path / "j", segment_bytes=1_000) as journal:
        await append(journal, 20)
        journal.forget(journal.read(3))
        await append(journal, 5, first=20)
        left = journal.backlog().entries
    with opened(tmp_path / "j", segment_bytes=1_000) as journal:
        found = subjects(journal)
    assert 22 == left
    assert numbers(22, first=3) == found[-22:]


async def test_many_appends_share_a_flush(tmp_path: Path) -> None:
    """Group commit: entries that came together cost a few flushes."""
    with opened(tmp_path / "j") as journal:
        await asyncio.gather(*(journal.append(prepared(number)) for number in range(500)))
        assert journal.flushes < 50
        assert 500 == journal.backlog().entries


async def test_segments_end_and_are_removed_when_nothing_of_them_waits(tmp_path: Path) -> None:
    """The journal does not grow while it is drained, and its files are nobody else's to read."""
    with opened(tmp_path / "j", segment_bytes=2_000) as journal:
        await append(journal, 40)
        many = files(tmp_path / "j")
        assert len(many) > 3
        assert {0o600} == {file.stat().st_mode & 0o777 for file in many}
        assert 0o700 == (tmp_path / "j").stat().st_mode & 0o777
        assert numbers(40) == subjects(journal)
        assert 1 == len(files(tmp_path / "j"))
        assert 0 == files(tmp_path / "j")[0].stat().st_size


@pytest.mark.parametrize("keep", [0, 1, 5, 30, 60])
async def test_a_torn_end_is_cut_off(tmp_path: Path, keep: int) -> None:
    """Power fails while a frame is written: the frames before it hold, and the journal goes on."""
    with opened(tmp_path / "j") as journal:
        await append(journal, 5)
    (file,) = files(tmp_path / "j")
    torn = Frame(sequence=6, flushed=5, uid=bytes(16), data=b"x" * 50).to_bytes()[:keep]
    file.write_bytes(file.read_bytes() + torn)
    with opened(tmp_path / "j") as journal:
        await append(journal, 2, first=5)
    with opened(tmp_path / "j") as journal:
        assert numbers(7) == subjects(journal)


async def test_a_batch_of_which_the_disk_kept_only_the_later_part_is_a_torn_end(tmp_path: Path) -> None:
    """Blocks of one unflushed write may reach the disk in any order; nobody was promised any of them."""
    with opened(tmp_path / "j") as journal:
        await append(journal, 3)
    (file,) = files(tmp_path / "j")
    lost, kept = (Frame(sequence=n, flushed=3, uid=bytes(16), data=b"y" * 40).to_bytes() for n in (4, 5))
    file.write_bytes(file.read_bytes() + bytes(len(lost)) + kept)
    with opened(tmp_path / "j") as journal:
        assert numbers(3) == subjects(journal)


async def test_a_hole_in_the_middle_is_refused(tmp_path: Path) -> None:
    """Every single damaged byte of an acknowledged entry that others follow keeps the journal from being opened."""
    with opened(tmp_path / "j") as journal:
        await append(journal, 4)
    (file,) = files(tmp_path / "j")
    good = file.read_bytes()
    frame_bytes = len(good) // 4
    for offset in range(0, 3 * frame_bytes, 7):
        file.write_bytes(good[:offset] + bytes([good[offset] ^ 0x55]) + good[offset + 1 :])
        with pytest.raises(AppError, match="was acknowledged and cannot be read") as failure:
            Journal.open(tmp_path / "j", JournalLimits())
        assert ErrorCode.FAILED_PRECONDITION is failure.value.code
    file.write_bytes(good)
    with opened(tmp_path / "j") as journal:
        assert numbers(4) == subjects(journal)


async def test_a_missing_segment_in_the_middle_is_refused(tmp_path: Path) -> None:
    """A file that somebody removed is a hole, too; one at the front was drained."""
    with opened(tmp_path / "j", segment_bytes=1_000) as journal:
        await append(journal, 30)
    names = files(tmp_path / "j")
    taken = names[1].read_bytes()
    names[1].unlink()
    with pytest.raises(AppError, match="was acknowledged and cannot be read"):
        Journal.open(tmp_path / "j", JournalLimits())
    names[1].write_bytes(taken)
    names[0].unlink()
    with opened(tmp_path / "j") as journal:
        found = subjects(journal)
    assert numbers(len(found), first=30 - len(found)) == found


def test_a_survey_tells_a_torn_end_from_a_hole() -> None:
    """By what a later frame says was flushed."""
    good = [Frame(sequence=n, flushed=n - 1, uid=bytes(16), data=b"d").to_bytes() for n in (1, 2, 3)]
    assert (3, False) == (survey(b"".join(good), 1).frames, survey(b"".join(good), 1).is_torn)
    assert (2, True) == (survey(b"".join(good)[:-1], 1).frames, survey(b"".join(good)[:-1], 1).is_torn)
    with pytest.raises(HoleError):
        survey(good[0] + good[2], 1)


async def test_one_process_at_a_time(tmp_path: Path) -> None:
    """A second one is refused with the first one's number."""
    with opened(tmp_path / "j"), pytest.raises(AppError, match=f"in use by another process .pid {os.getpid()}"):
        Journal.open(tmp_path / "j", JournalLimits())


async def test_a_full_journal_says_so(tmp_path: Path) -> None:
    """Entries and bytes are bounded; what leaves makes room."""
    with opened(tmp_path / "j", max_entries=3) as journal:
        await append(journal, 3)
        error = await refused(journal.append(prepared(3)))
        assert (ErrorCode.UNAVAILABLE, True) == (error.code, "limits.journal.max_entries" in error.detail)
        journal.forget(journal.read(1))
        await journal.append(prepared(3))
    with opened(tmp_path / "k", max_bytes=1_000) as journal:
        error = await refused(journal.append(prepared(0, size=1_000)))
        assert "limits.journal.max_bytes" in error.detail


async def test_a_full_disk_fails_only_while_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a frame that still fitted is taken back, so that what follows is whole."""
    real = os.pwrite

    def half(descriptor: int, data: Any, offset: int) -> int:
        if len(data) < 60:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[:59], offset)

    with opened(tmp_path / "j") as journal:
        await append(journal, 2)
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", half)
            error = await refused(journal.append(prepared(9)))
            assert (ErrorCode.UNAVAILABLE, True) == (error.code, "disk of the journal is full" in error.detail)
            assert (False, False) == (journal.health.ok, journal.health.fatal)
        await append(journal, 2, first=2)
        assert journal.health.ok
    with opened(tmp_path / "j") as journal:
        assert numbers(4) == subjects(journal)


@pytest.mark.parametrize("call", ["fdatasync", "pwrite"])
async def test_after_a_failed_flush_or_write_nothing_is_acknowledged_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """R2c for the journal: one failure, and this process never says yes again."""

    def failing(*_: Any) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with opened(tmp_path / "j") as journal:
        await append(journal, 2)
        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing)
            assert ErrorCode.UNAVAILABLE is (await refused(journal.append(prepared(2)))).code
        assert journal.health.fatal
        for number in range(3, 6):
            assert ErrorCode.UNAVAILABLE is (await refused(journal.append(prepared(number)))).code
        assert 2 == journal.backlog().entries


async def test_foreign_files_are_refused(tmp_path: Path) -> None:
    """A folder that is not ours alone is not touched."""
    (tmp_path / "notes.journal").write_text("hello")
    with pytest.raises(AppError, match="not a file of a journal"):
        Journal.open(tmp_path, JournalLimits())
