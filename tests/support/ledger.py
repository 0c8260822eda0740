"""A ledger in tests: a key, turns, and a sequencer's steps by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from app.authority.ledger_ports import Sequenced, SequencerStore, Turn
from app.keys.ledger_key import LedgerKey
from app.ledger.checkpoint import origin_of

NOW = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC)
LEDGER_KEY = LedgerKey(bytes(range(32)), origin_of("cluster.local"))


def a_turn(
    holder: str = "one", epoch: int = 0, *, now: datetime = NOW, max_entries: int = 1_024, lease: float = 0.0
) -> Turn:
    """A turn; without a lease, so that the next one may be anybody's."""
    return Turn(holder=holder, epoch=epoch, now=now, lease=timedelta(seconds=lease), max_entries=max_entries)


async def number_all(store: SequencerStore, turn: Turn | None = None) -> Sequenced:
    """Number everything that is stored, in as many turns as it takes."""
    turn = turn or a_turn()
    while True:
        done = await store.sequence(turn, LEDGER_KEY.sign)
        if done.numbered < turn.max_entries:
            return done
        turn = Turn(holder=turn.holder, epoch=done.epoch, now=turn.now, lease=turn.lease, max_entries=turn.max_entries)
