"""The whole log as a file: it holds, and whatever is changed in it is found and named (R19)."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

import pytest

from app.errors import AppError
from app.keys.ledger_key import LedgerKey
from app.ledger.entry import leaf_hash
from app.ledger.frontier import Frontier
from app.ledger.log_file import checkpoint_line, entry_line, heading_line, verify_log
from tests.support.ledger import LEDGER_KEY

MUTATIONS = 1_000
SIZE = 120


def a_log(size: int = SIZE, *, tag: str = "", every: int = 50) -> list[bytes]:
    """A log of `size` entries with a checkpoint after every fiftieth, and one at its end."""
    lines, frontier = [heading_line(LEDGER_KEY.public.origin, size)], Frontier()
    for index in range(size):
        data = b'{"kind":"admin.act","subject":"%s%d","detail":{"a\\n":"\xc3\xa9"}}' % (tag.encode(), index)
        lines.append(entry_line(index, data))
        frontier.append(leaf_hash(data))
        if frontier.size % every == 0 or frontier.size == size:
            lines.append(checkpoint_line(LEDGER_KEY.sign(frontier.size, frontier.root())))
    return lines


LOG = a_log()
ENTRIES = [number for number, line in enumerate(LOG) if line.startswith(b'{"index"')]


def named(lines: list[bytes]) -> int:
    """The index that verification names."""
    with pytest.raises(AppError) as refusal:
        verify_log(lines, LEDGER_KEY.public)
    found = re.match(r"index (\d+): ", refusal.value.detail)
    assert found, refusal.value.detail
    return int(found[1])


def test_a_log_holds() -> None:
    """The result is the checkpoint of all entries."""
    assert SIZE == verify_log(LOG, LEDGER_KEY.public).size


def flip(lines: list[bytes], entry: int, generator: random.Random) -> int:
    line = bytearray(lines[ENTRIES[entry]])
    line[generator.randrange(len(line) - 1)] ^= 1 << generator.randrange(8)
    lines[ENTRIES[entry]] = bytes(line)
    return entry


def delete(lines: list[bytes], entry: int, _generator: random.Random) -> int:
    del lines[ENTRIES[entry]]
    return entry


def reorder(lines: list[bytes], entry: int, generator: random.Random) -> int:
    other = generator.choice([number for number in range(SIZE) if number != entry])
    one, two = ENTRIES[entry], ENTRIES[other]
    lines[one], lines[two] = lines[two], lines[one]
    return min(entry, other)


def insert(lines: list[bytes], entry: int, _generator: random.Random) -> int:
    lines.insert(ENTRIES[entry], entry_line(entry, b'{"kind":"forged"}'))
    return entry


def truncate(lines: list[bytes], entry: int, _generator: random.Random) -> int:
    del lines[ENTRIES[entry] :]
    return entry


@pytest.mark.parametrize("mutate", [flip, delete, reorder, insert, truncate])
def test_every_random_mutation_is_found_and_the_first_bad_index_named(
    mutate: Callable[[list[bytes], int, random.Random], int],
) -> None:
    """R19: flip, delete, reorder, insert, truncate, a thousand in all."""
    generator = random.Random(19)
    for _ in range(MUTATIONS // 5):
        lines = list(LOG)
        first_bad = mutate(lines, generator.randrange(SIZE), generator)
        # An inserted entry that fits its place is only noticed at its successor; the checkpoint bounds the place.
        expected = {first_bad, first_bad + 1} if mutate is insert else {first_bad}
        assert named(lines) in expected


def test_a_skilful_change_is_bounded_by_the_checkpoints_around_it() -> None:
    """Entry and leaf hash changed together: the first checkpoint after it does not hold."""
    lines = list(LOG)
    lines[ENTRIES[77]] = entry_line(77, b"{}")
    assert 50 == named(lines)
    with pytest.raises(AppError, match="among the entries 50 to 99"):
        verify_log(lines, LEDGER_KEY.public)


def test_cutting_off_at_an_earlier_checkpoint_is_found() -> None:
    """The heading says how many entries there should be."""
    lines = LOG[: ENTRIES[50]]
    assert b'"checkpoint"' in lines[-1]
    assert 50 == named(lines)


def test_a_changed_checkpoint_is_found() -> None:
    """In the middle or at the end, also one of another key."""
    for position, index in ((ENTRIES[50] - 1, 50), (len(LOG) - 1, SIZE)):
        lines = list(LOG)
        lines[position] = checkpoint_line(LedgerKey(b"y" * 32, LEDGER_KEY.public.origin).sign(index, b"r" * 32))
        assert index == named(lines)
        lines[position] = lines[position].replace(b"\\n", b"\\t")
        assert index == named(lines)


@pytest.mark.parametrize("heading", [b"", b"x\n", b"{}\n", heading_line("gatehouse/other", SIZE), b"[" * 9_999 + b"\n"])
def test_a_file_that_is_no_log_of_ours_is_refused(heading: bytes) -> None:
    """Without the heading of this ledger nothing is read."""
    with pytest.raises(AppError):
        verify_log([heading, *LOG[1:]] if heading else [], LEDGER_KEY.public)
