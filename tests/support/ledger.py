"""A ledger in tests: a key, turns, and a sequencer's steps by hand."""

from __future__ import annotations

from datetime import UTC, datetime

from app.authority.ledger.ledger_ports import SequencerStore, Turn
from app.keys.ledger_key import LedgerKey
from app.ledger.checkpoint import origin_of

NOW = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC)
LEDGER_KEY = LedgerKey(bytes(range(32)), origin_of("cluster.local"))


def a_turn(*, now: datetime = NOW, max_entries: int = 1_024) -> Turn:
    """A turn."""
    return Turn(now=now, max_entries=max_entries)


async def number_all(store: SequencerStore, turn: Turn | None = None) -> int:
    """Number everything that is stored, in as many turns as it takes; how many entries that were."""
    turn, numbered = turn or a_turn(), 0
    while True:
        some = await store.sequence(turn, LEDGER_KEY.sign)
        numbered += some
        if some < turn.max_entries:
            return numbered
