"""Turns in virtual time: how many at once, in which order, what becomes of them, and load beyond capacity (R14)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from app.authority.certificates.admission import Admission
from app.authority.certificates.waiting_line import Urgency
from app.errors import AppError, ErrorCode
from app.limits import AdmissionLimits
from tests.support.virtual_time import LoopClock, run_in_virtual_time

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
AWAITED, MISSING, ENDING, LASTING = Urgency


@dataclass
class Counted:
    """An observer that keeps what it hears."""

    waits: list[tuple[Urgency, float]] = field(default_factory=list)
    sheds: list[Urgency] = field(default_factory=list)

    def waited(self, urgency: Urgency, seconds: float) -> None:
        self.waits.append((urgency, seconds))

    def shed(self, urgency: Urgency) -> None:
        self.sheds.append(urgency)


@dataclass
class Desk:
    """An admission, and who came to their turn, with which second."""

    admission: Admission
    observer: Counted
    order: list[tuple[str, float]] = field(default_factory=list)

    async def work(self, node: str, urgency: Urgency = LASTING, *, seconds: float = 1.0) -> None:
        async with self.admission.turn(node, urgency):
            self.order.append((node, asyncio.get_running_loop().time()))
            await asyncio.sleep(seconds)

    def start(self, node: str, urgency: Urgency = LASTING, *, seconds: float = 1.0) -> asyncio.Task[None]:
        return asyncio.create_task(self.work(node, urgency, seconds=seconds))


def desk(**limits: float) -> Desk:
    observer = Counted()
    chosen = AdmissionLimits(**{"max_at_work": 1, "max_wait_seconds": 100.0, **limits})  # type: ignore[arg-type]
    return Desk(Admission(chosen, LoopClock(), observer), observer)


@contextmanager
def overloaded() -> Iterator[None]:
    with pytest.raises(AppError) as caught:
        yield
    assert ErrorCode.OVERLOADED is caught.value.code
    assert caught.value.diagnosis.startswith("overload: ")


async def moment() -> None:
    """Let everything run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_no_more_than_so_many_work_at_once_and_the_others_follow_as_these_end() -> None:
    """Five requests of a second each, two at once."""

    async def scenario() -> None:
        at = desk(max_at_work=2)
        await asyncio.gather(*(at.work(f"{number}") for number in range(5)))

        assert [("0", 0.0), ("1", 0.0), ("2", 1.0), ("3", 1.0), ("4", 2.0)] == at.order
        assert 0 == at.admission.at_work
        assert [(LASTING, 1.0), (LASTING, 1.0), (LASTING, 2.0)] == at.observer.waits

    run_in_virtual_time(scenario())


def test_a_workload_without_a_certificate_overtakes_a_mesh_that_restarts() -> None:
    """It is served next."""

    async def scenario() -> None:
        at = desk()
        waiting = [at.start(f"{number}") for number in range(4)]
        await moment()
        waiting.append(at.start("new", MISSING))
        await asyncio.gather(*waiting)

        assert ["0", "new", "1", "2", "3"] == [node for node, _ in at.order]

    run_in_virtual_time(scenario())


def test_of_two_missing_certificates_of_one_node_somebody_waits_for_one() -> None:
    """A node proxy warms up one by one; both go before the others', and afterwards the node is as any other."""

    async def scenario() -> None:
        at = desk()
        waiting = [at.start(node, MISSING) for node in ("0", "1", "busy", "busy")]
        await asyncio.gather(*waiting)
        assert ["0", "busy", "busy", "1"] == [node for node, _ in at.order]
        assert [AWAITED, AWAITED, MISSING] == [urgency for urgency, _ in at.observer.waits]

        at.order.clear()
        await asyncio.gather(*(at.work(node, MISSING) for node in ("2", "3", "busy", "4")))
        assert ["2", "3", "busy", "4"] == [node for node, _ in at.order]

    run_in_virtual_time(scenario())


def test_a_request_that_fails_gives_its_turn_back() -> None:
    """Whatever it failed of."""

    async def scenario() -> None:
        at = desk()
        with pytest.raises(ZeroDivisionError):
            async with at.admission.turn("a", MISSING):
                raise ZeroDivisionError
        await at.work("b", MISSING)

        assert 0 == at.admission.at_work
        assert [] == at.observer.waits

    run_in_virtual_time(scenario())


@pytest.mark.parametrize("urgency", [MISSING, LASTING])
def test_a_call_that_is_cancelled_takes_no_turn_away(urgency: Urgency) -> None:
    """While it waits, while it works, and in the very moment in which its turn has come."""

    async def scenario() -> None:
        at = desk()
        working, waits, called, last = (at.start(node, urgency) for node in ("a", "b", "c", "d"))
        await moment()
        waits.cancel()
        working.cancel()  # now it is the turn of "c", which does not know it yet
        await asyncio.sleep(0)
        called.cancel()
        await asyncio.gather(working, waits, called, return_exceptions=True)
        await last

        assert [("a", 0.0), ("d", 0.0)] == at.order
        assert 0 == at.admission.at_work
        assert [0, 0, 0, 0] == [at.admission.waiting(each) for each in Urgency]

    run_in_virtual_time(scenario())


def test_a_turn_that_comes_as_its_time_is_up_is_used_or_passed_on() -> None:
    """At the same instant: whichever is first, no turn is lost."""

    async def scenario() -> None:
        at = desk(max_wait_seconds=2.0)
        tasks = [at.start("a", seconds=2.0), at.start("b", seconds=0.0), at.start("c", seconds=0.0)]
        await asyncio.gather(*tasks, return_exceptions=True)
        await at.work("d", seconds=0.0)

        assert 0 == at.admission.at_work
        assert "d" == at.order[-1][0]

    run_in_virtual_time(scenario())


def test_whose_turn_cannot_come_in_time_is_refused_at_once() -> None:
    """No time passes for it. A node's only request may hope that others give up: it is refused at twice the wait."""

    async def scenario() -> None:
        at = desk(max_wait_seconds=10.0)
        for _ in range(2_000):  # until it is known that a turn takes a second
            await asyncio.gather(at.work("a"), at.work("b"))
        tasks = [at.start("a", seconds=1.0), *(at.start(f"{number}") for number in range(30))]
        await moment()
        started = asyncio.get_running_loop().time()
        with overloaded():
            await at.work("late")
        with overloaded():
            await at.work("0")
        assert started == asyncio.get_running_loop().time()
        assert 18 <= at.admission.waiting(LASTING) <= 22
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert 10 <= results.count(None) <= 11  # nobody is served late, and no turn is lost

    run_in_virtual_time(scenario())


def test_overload_by_nodes_that_ask_one_by_one_takes_nothing_from_what_is_served() -> None:
    """More nodes than can be served in time, each asking on as soon as it is answered, also by a refusal."""

    async def scenario() -> None:
        at, refused = desk(max_at_work=16, max_wait_seconds=7.0), 0

        async def node(number: int) -> None:
            nonlocal refused
            while asyncio.get_running_loop().time() < 60.0:
                try:
                    await at.work(f"{number}", seconds=0.16)  # 100 a second: a round takes 10 s
                except AppError:
                    refused += 1

        await asyncio.gather(*(node(number) for number in range(1_000)))
        assert len(at.order) >= 0.99 * 100 * 60
        assert refused < len(at.order)

    run_in_virtual_time(scenario())


def test_nobody_waits_for_longer_than_the_bound() -> None:
    """What could not be foreseen ends in a refusal, too."""

    async def scenario() -> None:
        at = desk(max_wait_seconds=5.0)
        working = at.start("a", seconds=60.0)
        await moment()
        with overloaded():
            await at.work("b")
        assert 5.0 == asyncio.get_running_loop().time()
        await working
        assert 0 == at.admission.at_work

    run_in_virtual_time(scenario())


def test_a_full_line_refuses_the_least_urgent_at_once() -> None:
    """Who waits makes room for who is more urgent."""

    async def scenario() -> None:
        at = desk(max_waiting=1)
        working, waits = at.start("a"), at.start("b")
        await moment()
        with overloaded():
            await at.work("c")
        urgent = at.start("d", MISSING)
        with overloaded():
            await waits
        assert 0.0 == asyncio.get_running_loop().time()
        await asyncio.gather(working, urgent)
        assert ["a", "d"] == [node for node, _ in at.order]

    run_in_virtual_time(scenario())


@pytest.mark.parametrize(
    ("minutes_left", "urgency"), [(None, MISSING), (-1, MISSING), (0, MISSING), (5, ENDING), (16, LASTING)]
)
def test_how_urgent_a_certificate_is(minutes_left: int | None, urgency: Urgency) -> None:
    """None in force, less than a quarter of an hour left, or more."""
    until = None if minutes_left is None else NOW + timedelta(minutes=minutes_left)

    assert urgency is desk(near_end_seconds=900.0).admission.urgency(until, now=NOW)


@dataclass
class Flood:
    """What became of an open loop of requests."""

    accepted: dict[Urgency, list[float]] = field(default_factory=lambda: {urgency: [] for urgency in Urgency})
    refused: list[tuple[float, float]] = field(default_factory=list)  # when, after which time

    async def ask(self, at: Desk, node: str, urgency: Urgency) -> None:
        started = asyncio.get_running_loop().time()
        try:
            await at.work(node, urgency, seconds=0.1)
        except AppError:
            self.refused.append((started, asyncio.get_running_loop().time() - started))
        else:
            self.accepted[urgency].append(asyncio.get_running_loop().time() - started)


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def test_r14_ten_times_the_capacity_harms_nobody_who_is_let_in() -> None:
    """400 a second can be served and 4,000 come, a fiftieth of them urgent, for six seconds."""

    async def scenario() -> None:
        at, flood = desk(max_at_work=40, max_wait_seconds=2.0), Flood()
        async with asyncio.TaskGroup() as group:
            for number in range(24_000):
                urgency = MISSING if number % 50 == 0 else LASTING
                group.create_task(flood.ask(at, f"node-{number % 97}", urgency))
                await asyncio.sleep(1 / 4_000)
            load_ended = asyncio.get_running_loop().time()
        back_to_normal = asyncio.get_running_loop().time() - load_ended
        served = [seconds for values in flood.accepted.values() for seconds in values]

        assert 24_000 == len(served) + len(flood.refused)
        assert len(served) > 0.98 * 400 * (load_ended + back_to_normal)  # goodput
        assert max(served) <= 2.0 + 0.11
        assert len(flood.accepted[MISSING]) == 480  # none of the urgent was refused
        assert percentile(flood.accepted[MISSING], 0.99) < 0.3
        # At first nobody can foresee whose turn will not come: it is not known yet how fast they do.
        assert percentile([took for started, took in flood.refused if started > 2.0], 0.99) < 0.05
        assert back_to_normal <= 2.2
        assert 0 == at.admission.at_work

    run_in_virtual_time(scenario())


def test_a_thousand_nodes_that_ask_again_at_once_all_get_served_evenly() -> None:
    """Each asks for the next certificate when it has the last: nobody is refused, nobody is a round behind."""

    async def scenario() -> None:
        at, ends = desk(max_at_work=64, max_wait_seconds=5.0), dict[int, float]()

        async def node(number: int) -> None:
            for _ in range(30):
                await at.work(f"{number}", seconds=0.16)  # 400 a second
            ends[number] = asyncio.get_running_loop().time()

        await asyncio.gather(*(node(number) for number in range(1_000)))
        assert [] == at.observer.sheds
        assert max(ends.values()) == pytest.approx(75.0, rel=0.02)
        assert min(ends.values()) > 0.9 * max(ends.values())

    run_in_virtual_time(scenario())
