"""Who is served next: by urgency, by node, nobody never; how long until then; bounds."""

from __future__ import annotations

from collections import Counter

import pytest

from app.authority.certificates.waiting_line import Urgency, Waiter, WaitingLine
from app.limits import AdmissionLimits

AWAITED, MISSING, ENDING, LASTING = Urgency


def line_of(*waiters: Waiter, **limits: int) -> WaitingLine:
    line = WaitingLine(AdmissionLimits(**limits))
    for waiter in waiters:
        assert line.join(waiter) is None
    return line


def waiter(node: str = "a", urgency: Urgency = LASTING) -> Waiter:
    return Waiter(node, urgency, since=0.0)


def taken(line: WaitingLine, count: int | None = None) -> list[Waiter]:
    """The next turns, one each 10 ms."""
    turns: list[Waiter] = []
    while count is None or len(turns) < count:
        found = line.take(now=0.01 * (len(turns) + 1))
        if found is None:
            break
        turns.append(found)
    return turns


def test_the_more_urgent_goes_first_whenever_it_came() -> None:
    """A workload without a certificate overtakes every renewal."""
    waiters = [waiter(f"node-{urgency}", urgency) for urgency in reversed(Urgency)]

    assert waiters[::-1] == taken(line_of(*waiters))


def test_a_node_that_asks_for_much_gets_a_turn_as_everybody() -> None:
    """Eight requests of one node come between those of others, each in its own order."""
    greedy = [waiter("greedy") for _ in range(8)]
    modest = [waiter(node) for node in ("b", "c", "b", "c")]

    order = taken(line_of(*greedy, *modest))
    assert ["greedy", "b", "c", "greedy", "b", "c", *["greedy"] * 6] == [each.node for each in order]
    assert greedy == [each for each in order if each.node == "greedy"]


def test_the_node_that_was_served_goes_behind_those_that_wait() -> None:
    """And who comes meanwhile goes behind it."""
    line = line_of(waiter("a"), waiter("a"), waiter("b"))
    assert ["a"] == [each.node for each in taken(line, 1)]
    line.join(waiter("c"))

    assert ["b", "a", "c"] == [each.node for each in taken(line)]


def test_nobody_is_passed_over_for_ever() -> None:
    """While urgent requests keep coming, each of the others gets its share of the turns."""
    line, turns = line_of(passed_over_turns=8), Counter[Urgency]()
    for number in range(1_100):
        for urgency in Urgency:
            if not line.waiting(urgency):
                line.join(waiter(f"{urgency}-{number}", urgency))
        found = line.take(now=0.01 * number)
        assert found is not None
        turns[found.urgency] += 1

    assert turns[AWAITED] == pytest.approx(6 / 9 * 1_100, abs=3)
    assert [turns[urgency] for urgency in (MISSING, ENDING, LASTING)] == pytest.approx([1_100 / 9] * 3, abs=3)


def test_a_share_is_not_saved_up_while_nobody_waits() -> None:
    """Who comes after a long time without anybody like him waits as long as others did."""
    line = line_of(passed_over_turns=8)
    line.join(waiter("early", LASTING))
    for number in range(7):
        line.join(waiter(f"{number}", MISSING))
    taken(line)
    line.join(waiter("late", LASTING))
    line.join(waiter("urgent", MISSING))

    assert ["urgent", "late"] == [each.node for each in taken(line)]


def test_a_full_line_sends_the_last_of_the_least_urgent_away() -> None:
    """That is who came, unless somebody less urgent waits."""
    first, second, third = waiter("a"), waiter("b"), waiter("c")
    urgent, another = waiter("d", MISSING), waiter("e", MISSING)
    line = line_of(first, second, max_waiting=2)

    assert line.join(third) is third
    assert line.join(urgent) is second
    assert line.join(another) is first
    assert line.join(first) is first
    assert [urgent, another] == taken(line)


def test_who_has_left_is_not_called_and_may_leave_again() -> None:
    """A cancelled call takes nobody else's turn."""
    gone, stays = waiter("a"), waiter("b")
    line = line_of(gone, stays)
    line.leave(gone)
    line.leave(gone)

    assert [stays] == taken(line)
    line.leave(stays)
    assert 0 == len(line)


def test_the_time_until_a_turn_is_foreseen_from_how_fast_turns_come() -> None:
    """After many turns of 10 ms a hundred of them take a second."""
    line = line_of(*(waiter(f"{number}") for number in range(600)))
    taken(line, 500)

    assert line.seconds_until("new", LASTING, now=5.0) == pytest.approx(1.0, rel=0.25)
    assert line.seconds_until("new", MISSING, now=5.0) < 0.05


def test_the_second_request_of_a_node_comes_a_round_later() -> None:
    """What a greedy node has waiting keeps itself waiting, and others for one turn only."""
    line = line_of(*(waiter(f"{number}") for number in range(100)), *(waiter("0") for _ in range(300)))
    modest, greedy = (line.seconds_until(node, LASTING, now=0.0) for node in ("new", "0"))

    assert greedy == pytest.approx(4 * modest, rel=0.05)


def test_a_stall_makes_everybody_behind_it_wait() -> None:
    """When no turn comes for a while, that counts at once."""
    line = line_of(waiter("a"), waiter("b"))
    before = line.seconds_until("c", LASTING, now=0.0)

    assert line.seconds_until("c", LASTING, now=4.0) == pytest.approx(before + 4.0)


def test_less_urgent_ones_are_told_how_seldom_their_turn_comes() -> None:
    """While more urgent requests keep coming, the few that wait before it are not all that it waits for."""
    line = line_of(waiter("a", LASTING), passed_over_turns=9)
    for number in range(1_000):
        line.join(waiter(f"{number}", MISSING))
        if not line.waiting(LASTING):
            line.join(Waiter(f"lasting-{number}", LASTING, since=0.01 * number))
        line.take(now=0.01 * number)

    assert line.seconds_until("new", LASTING, now=10.0) > 0.15


def test_what_a_node_misses_becomes_awaited_in_its_order() -> None:
    """Before other nodes' missing ones, and nothing else of the node."""
    first, second, lasting, other = waiter("a", MISSING), waiter("a", MISSING), waiter("a"), waiter("b", MISSING)
    line = line_of(other, first, lasting, second)
    line.hurry("a", now=0.0)

    assert [2, 1, 0, 1] == [line.waiting(urgency) for urgency in Urgency]
    assert [first, second, other, lasting] == taken(line)
