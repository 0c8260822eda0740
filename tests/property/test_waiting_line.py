"""Whatever comes, leaves and is served in any order: nobody is lost, nobody is served twice, nobody is overtaken."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from app.authority.certificates.waiting_line import Urgency, Waiter, WaitingLine
from app.limits import AdmissionLimits

LIMITS = AdmissionLimits(max_waiting=12, passed_over_turns=3)
NODES = st.sampled_from("abcd")


class Lines(RuleBasedStateMachine):
    """Beside the line, a plain list of who is in it, and how often the first of each urgency was passed over."""

    def __init__(self) -> None:
        super().__init__()
        self.line = WaitingLine(LIMITS)
        self.now = 0.0
        self.inside: list[Waiter] = []
        self.passed_over = dict.fromkeys(Urgency, 0)
        self.rounds: dict[int, set[str]] = {}  # by waiter, the nodes served since it became the first of its own

    @rule(node=NODES, urgency=st.sampled_from(Urgency))
    def join(self, node: str, urgency: Urgency) -> None:
        """Somebody comes."""
        waiter = Waiter(node, urgency, since=self.now)
        foreseen = self.line.seconds_until(node, urgency, now=self.now)
        assert foreseen > 0
        self.inside.append(waiter)
        out = self.line.join(waiter)
        assert (out is None) == (len(self.inside) <= LIMITS.max_waiting)
        if out is not None:
            assert out.urgency == max(each.urgency for each in self.inside)
            self.remove(out)

    @rule(number=st.integers(0, 20))
    def leave(self, number: int) -> None:
        """Somebody gives up."""
        if self.inside:
            waiter = self.inside[number % len(self.inside)]
            self.line.leave(waiter)
            self.line.leave(waiter)
            self.remove(waiter)

    @rule(node=NODES)
    def hurry(self, node: str) -> None:
        """What a node misses is awaited."""
        self.line.hurry(node, now=self.now)
        assert not [each for each in self.inside if each.node == node and each.urgency is Urgency.MISSING]

    @rule()
    def take(self) -> None:
        """It is somebody's turn."""
        self.now += 0.01
        waiting = {each.urgency for each in self.inside}
        taken = self.line.take(now=self.now)
        assert (taken is None) == (not self.inside)
        if taken is None:
            return
        same = [each for each in self.inside if (each.node, each.urgency) == (taken.node, taken.urgency)]
        assert same[0] is taken or taken.urgency is Urgency.AWAITED  # a node's own come in their order
        for each in self.inside:
            if each.urgency is taken.urgency and each.node != taken.node:
                served = self.rounds.setdefault(id(each), set())
                first = next(x for x in self.inside if (x.node, x.urgency) == (each.node, each.urgency)) is each
                if first and each.urgency is not Urgency.AWAITED:
                    assert taken.node not in served  # no node gets two turns while another one waits for its first
                    served.add(taken.node)
        self.remove(taken)
        for urgency in waiting:
            self.passed_over[urgency] = 0 if urgency is taken.urgency else self.passed_over[urgency] + 1
            assert self.passed_over[urgency] < LIMITS.passed_over_turns + len(Urgency)

    @invariant()
    def all_are_there(self) -> None:
        """The counts are those of the list."""
        assert len(self.line) == len(self.inside) <= LIMITS.max_waiting
        for urgency in Urgency:
            count = sum(each.urgency is urgency for each in self.inside)
            assert self.line.waiting(urgency) == count
            if not count:
                self.passed_over[urgency] = 0

    def remove(self, waiter: Waiter) -> None:
        self.inside.remove(waiter)
        self.rounds.pop(id(waiter), None)
        for each in self.inside:  # whoever is first of its node now begins to count
            if each.node == waiter.node:
                self.rounds.pop(id(each), None)


TestLines = Lines.TestCase
TestLines.settings = settings(max_examples=40, stateful_step_count=50, deadline=None)
