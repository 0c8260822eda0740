"""A database that went backwards is noticed by what others remember."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from app.authority.ledger.rollback_guard import Accepted, RollbackGuard
from app.errors import AppError, ErrorCode
from app.keys.ledger_key import LedgerKey
from app.ledger.entry import leaf_hash
from app.ledger.merkle import root_hash
from app.storage.database import Database
from tests.contract.conftest import make_entry
from tests.support.ledger import LEDGER_KEY, NOW, a_turn, number_all


@dataclass
class Memory:
    """A high-water file that only says what it was told."""

    condemned: list[str] = field(default_factory=list)

    def remember(self, note: str) -> None:
        raise AssertionError(note)

    def condemn(self, note: str) -> None:
        self.condemned.append(note)


async def fill(database: Database, count: int) -> list[bytes]:
    """Entries, numbered one by one; returns their leaf hashes."""
    for number in range(count):
        await database.append(make_entry(f"{number}"))
        await number_all(database, a_turn(now=NOW + timedelta(seconds=number)))
    return [leaf for _, _, leaf in await database.read_ledger(0, count)]


def guard_of(database: Database, *accepted: Accepted) -> tuple[RollbackGuard, Memory]:
    memory = Memory()
    return RollbackGuard(database, LEDGER_KEY.public, memory, accepted=accepted), memory


async def test_what_the_database_holds_may_be_remembered(database: Database) -> None:
    """Any checkpoint up to the newest, also one that was thinned out, also the empty log."""
    leaves = await fill(database, 9)
    await database.thin_checkpoints(keep=1)
    guard, _ = guard_of(database)
    for size in range(10):
        await guard.check(LEDGER_KEY.sign(size, root_hash(leaves[:size])), "somebody")


async def test_case_121_a_database_that_went_backwards_is_refused(database: Database) -> None:
    """R5b: the sentence says both sizes, who remembers, and how to go on."""
    leaves = await fill(database, 3)
    guard, _ = guard_of(database)
    with pytest.raises(AppError) as refusal:
        await guard.check(LEDGER_KEY.sign(4, root_hash([*leaves, b"x" * 32])), "the worker 'a/1'")
    assert ErrorCode.FAILED_PRECONDITION is refusal.value.code
    assert (
        "the ledger went backwards: the database has 3 signed entries, and the worker 'a/1' remembers 4; restore the "
        "newer database; only if it is lost for good, stop Gatehouse and run "
        "`gatehouse audit accept-rollback --reason ...` on this host, which records the loss"
    ) == refusal.value.detail


async def test_another_history_of_the_same_size_is_refused(database: Database) -> None:
    """Equal or smaller size with another root: entries were replaced."""
    leaves = await fill(database, 3)
    guard, _ = guard_of(database)
    for size in (2, 3):
        with pytest.raises(AppError, match="another history"):
            await guard.check(LEDGER_KEY.sign(size, root_hash([leaf_hash(b"x"), *leaves][:size])), "somebody")


async def test_a_workers_memory_ends_the_process_and_is_kept_for_the_next_start(database: Database) -> None:
    """What a worker says later has the same effect as what is found at the start."""
    await fill(database, 3)
    guard, memory = guard_of(database)
    running = asyncio.create_task(guard.run())
    note = LEDGER_KEY.sign(8, b"r" * 32)
    with pytest.raises(AppError, match="backwards"):
        await guard.hear(note, "the worker 'a'")
    with pytest.raises(AppError, match="backwards: the database has 3 signed entries, and the worker 'a' remembers 8"):
        await running
    assert [note] == memory.condemned


async def test_what_a_worker_cannot_prove_has_no_effect(database: Database) -> None:
    """Notes of another key, or no notes: a worker cannot stop the authority with words."""
    await fill(database, 3)
    guard, memory = guard_of(database)
    for note in ("", "x", LedgerKey(b"z" * 32, LEDGER_KEY.public.origin).sign(8, b"r" * 32)):
        await guard.hear(note, "the worker 'a'")
    assert [] == memory.condemned


async def test_an_accepted_loss_is_not_held_against_the_database_again(database: Database) -> None:
    """What lies in the lost part; not what came after it, and not another beginning."""
    await fill(database, 3)
    guard, _ = guard_of(database, Accepted(2, 8))
    for size in (3, 8):
        await guard.check(LEDGER_KEY.sign(size, b"r" * 32), "somebody")
    for size in (2, 9):
        with pytest.raises(AppError, match="the ledger"):
            await guard.check(LEDGER_KEY.sign(size, b"r" * 32), "somebody")
