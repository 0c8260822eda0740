"""Who is served next, and how long until then: the order of certificate requests that wait.

By urgency first, so that a workload without a certificate does not wait behind renewals that have hours. Within one
urgency by node, the one that has waited longest since it was served or came: a node that asks eight times at once gets
one turn, as everybody, and nobody who came later overtakes it. No urgency is passed over for ever. Nothing here waits,
and time is a parameter (monotonic seconds).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import IntEnum

from app.limits import AdmissionLimits

# What a turn is taken for until there is a queue to measure, and how many turns a measurement remembers: so many that
# one slow commit does not make the line look endless.
_FIRST_GUESS_SECONDS = 0.002
_REMEMBERED_TURNS = 256


class Urgency(IntEnum):
    """What hangs on a certificate; the smaller goes first."""

    AWAITED = 0  # there is none, and the node asks for more than one such at once: a connection waits for it
    MISSING = 1  # there is none in force for that identity on that node
    ENDING = 2  # the one in force ends soon
    LASTING = 3  # the one in force lasts: a renewal, or a node proxy that was restarted


@dataclass(slots=True, eq=False)
class Waiter:
    """One request that waits."""

    node: str
    urgency: Urgency
    since: float


class WaitingLine:
    """The requests that wait, in order; bounded."""

    def __init__(self, limits: AdmissionLimits) -> None:
        self._limits = limits
        self._lanes = {urgency: _Lane() for urgency in Urgency}
        self._pace = _Pace()

    def __len__(self) -> int:
        return sum(lane.count for lane in self._lanes.values())

    def waiting(self, urgency: Urgency) -> int:
        """How many wait with that urgency."""
        return self._lanes[urgency].count

    def waits(self, node: str) -> bool:
        """Whether a node has a request in the line."""
        return any(lane.of(node) for lane in self._lanes.values())

    def seconds_until(self, node: str, urgency: Urgency, *, now: float) -> float:
        """How long a request would wait that came now, as far as can be foreseen."""
        lane = self._lanes[urgency]
        of_its_lane = lane.before(node)
        more_urgent = sum(self._lanes[other].count for other in Urgency if other < urgency)
        # By who is there now, and besides, by how it has gone lately: more urgent ones may keep coming.
        return max(
            self._pace.seconds_for(more_urgent + of_its_lane, now=now), lane.pace.seconds_for(of_its_lane, now=now)
        )

    def join(self, waiter: Waiter) -> Waiter | None:
        """Add a request; when there are too many, returns the last of the least urgent, which is out (maybe itself)."""
        if not self:
            self._pace.begin(now=waiter.since)
        self._lanes[waiter.urgency].add(waiter, now=waiter.since)
        if len(self) <= self._limits.max_waiting:
            return None
        last = next(lane for lane in reversed(self._lanes.values()) if lane.count).last()
        self.leave(last)
        return last

    def leave(self, waiter: Waiter) -> None:
        """Take a request out that waits no more; one that is out already may leave again."""
        self._lanes[waiter.urgency].remove(waiter)

    def hurry(self, node: str, *, now: float) -> None:
        """What a node misses is awaited from now on."""
        for waiter in self._lanes[Urgency.MISSING].of(node):
            self.leave(waiter)
            waiter.urgency = Urgency.AWAITED
            self._lanes[Urgency.AWAITED].add(waiter, now=now)

    def take(self, *, now: float) -> Waiter | None:
        """The next request, out of the line; None when nobody waits."""
        waiting = [lane for lane in self._lanes.values() if lane.count]
        if not waiting:
            return None
        chosen = max(waiting, key=lambda lane: lane.passed_over)  # of equals the most urgent
        if chosen.passed_over < self._limits.passed_over_turns:
            chosen = waiting[0]
        for lane in waiting:
            lane.passed_over += 1
        chosen.passed_over = 0
        self._pace.turn(now=now)
        return chosen.take(now=now)


class _Lane:
    """The requests of one urgency."""

    def __init__(self) -> None:
        self.count = 0
        self.passed_over = 0  # turns that others got while somebody waited here
        self.pace = _Pace()
        self._nodes: dict[str, deque[Waiter]] = {}  # in the order of their turns

    def add(self, waiter: Waiter, *, now: float) -> None:
        """Add a request; a node that is not in the lane yet comes last."""
        if not self.count:
            self.pace.begin(now=now)
        self._nodes.setdefault(waiter.node, deque()).append(waiter)
        self.count += 1

    def remove(self, waiter: Waiter) -> None:
        """Take a request out, if it is in."""
        waiters = self._nodes.get(waiter.node)
        if waiters is None or waiter not in waiters:
            return
        waiters.remove(waiter)
        self._is_one_less(waiter.node)

    def take(self, *, now: float) -> Waiter:
        """Take the next request out; what else its node has waits for another round."""
        self.pace.turn(now=now)
        node, waiters = next(iter(self._nodes.items()))
        waiter = waiters.popleft()
        self._nodes[node] = self._nodes.pop(node)
        self._is_one_less(node)
        return waiter

    def last(self) -> Waiter:
        """Whose turn comes last, nearly: the newest of the node whose turn comes last."""
        return next(reversed(self._nodes.values()))[-1]

    def of(self, node: str) -> list[Waiter]:
        """The requests of a node."""
        return list(self._nodes.get(node, ()))

    def before(self, node: str) -> int:
        """How many turns come before another request of a node, at most: a round for each that it has, and this one."""
        return min(self.count, (1 + len(self._nodes.get(node, ()))) * len(self._nodes))

    def _is_one_less(self, node: str) -> None:
        self.count -= 1
        if not self._nodes[node]:
            del self._nodes[node]
        if not self.count:
            self.passed_over = 0


class _Pace:
    """How fast turns come while somebody waits; a stall counts as it grows."""

    def __init__(self) -> None:
        self._turns = float(_REMEMBERED_TURNS)
        self._seconds = _REMEMBERED_TURNS * _FIRST_GUESS_SECONDS
        self._last = 0.0

    def begin(self, *, now: float) -> None:
        """Somebody waits from now on."""
        self._last = now

    def turn(self, *, now: float) -> None:
        """Somebody's turn came."""
        self._seconds += now - self._last
        self._turns += 1
        self._last = now
        if self._turns >= 2 * _REMEMBERED_TURNS:
            self._seconds, self._turns = self._seconds / 2, self._turns / 2

    def seconds_for(self, turns: int, *, now: float) -> float:
        """How long so many turns take, and the one after them."""
        since = now - self._last if turns else 0.0
        return since + (turns + 1) * self._seconds / self._turns
