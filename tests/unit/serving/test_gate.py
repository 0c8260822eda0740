"""Who gets in, and who has to go."""

from __future__ import annotations

from dataclasses import dataclass, field

from app.serving.gate import ConnectionGate


@dataclass(eq=False)
class _Member:
    address: str
    opened_at: float
    expendable: bool = True
    sent_away: list[bool] = field(default_factory=list)

    def is_expendable(self, now: float) -> bool:
        return self.expendable

    def send_away(self) -> None:
        self.sent_away.append(True)


def _gate(total: int, per_address: int = 100) -> ConnectionGate[_Member]:
    return ConnectionGate(max_connections=total, max_per_address=per_address)


def test_there_is_room():
    """Up to the bound everybody gets in."""
    gate = _gate(2)

    assert gate.enter(_Member("a", 0), 1)
    assert gate.enter(_Member("a", 0), 1)
    assert 2 == len(gate)


def test_a_full_house_sends_the_oldest_idle_one_away():
    """Who is being served stays."""
    gate = _gate(3)
    busy, old, young = _Member("a", 0, expendable=False), _Member("b", 1), _Member("c", 2)
    for member in (busy, old, young):
        gate.enter(member, 3)

    assert gate.enter(_Member("d", 3), 3)
    assert [[], [True], []] == [busy.sent_away, old.sent_away, young.sent_away]
    assert 3 == len(gate)


def test_the_busiest_address_goes_first():
    """Before the oldest connection."""
    gate = _gate(3)
    alone, first, second = _Member("a", 0), _Member("b", 1), _Member("b", 2)
    for member in (alone, first, second):
        gate.enter(member, 3)

    assert gate.enter(_Member("c", 3), 3)
    assert [[], [True], []] == [alone.sent_away, first.sent_away, second.sent_away]


def test_a_house_at_work_refuses():
    """Nobody is cut off for a newcomer."""
    gate = _gate(1)
    gate.enter(_Member("a", 0, expendable=False), 0)

    assert not gate.enter(_Member("b", 1), 1)
    assert 1 == len(gate)


def test_an_address_has_its_own_bound():
    """It makes room among its own, or is refused; others are not touched."""
    gate = _gate(10, per_address=1)
    other, own = _Member("a", 0), _Member("b", 1)
    gate.enter(other, 1)
    gate.enter(own, 1)

    assert gate.enter(_Member("b", 2, expendable=False), 2)
    assert ([], [True]) == (other.sent_away, own.sent_away)
    assert not gate.enter(_Member("b", 3), 3)


def test_unix_sockets_have_no_address():
    """Only the total counts for them."""
    gate = _gate(3, per_address=1)

    assert all(gate.enter(_Member("", n), n) for n in range(3))


def test_leaving_twice_counts_once():
    """And an address that left is forgotten."""
    gate = _gate(2, per_address=1)
    member = _Member("a", 0, expendable=False)
    gate.enter(member, 0)
    gate.leave(member)
    gate.leave(member)

    assert 0 == len(gate)
    assert gate.enter(_Member("a", 1), 1)
