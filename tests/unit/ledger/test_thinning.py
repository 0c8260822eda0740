"""Which old checkpoints stay."""

from __future__ import annotations

from datetime import timedelta

from app.ledger.thinning import CheckpointAge, superfluous
from tests.support.ledger import NOW


def test_the_newest_of_each_hour_and_later_of_each_day_stay() -> None:
    """A checkpoint every ten minutes for forty days: hours for a month, days before, and nothing on a second try."""
    ages = [CheckpointAge(10_000 - number, NOW - number * timedelta(minutes=10)) for number in range(40 * 144)]
    forgotten = set(superfluous(ages))
    kept = [age for age in ages if age.size not in forgotten]

    assert kept[0] == ages[0]
    assert 30 * 24 + 10 - 2 <= len(kept) <= 30 * 24 + 10 + 3
    assert [] == superfluous(kept)


def test_nothing_to_thin() -> None:
    """No checkpoint, or one."""
    assert [] == superfluous([])
    assert [] == superfluous([CheckpointAge(1, NOW)])
