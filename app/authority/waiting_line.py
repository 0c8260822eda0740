"""Who is served next, and how long until then: the order of certificate requests that wait.

By urgency first, so that a workload without a certificate does not wait behind renewals that have hours. Within one
urgency by node, the one that was served least recently first: a node that asks eight times at once gets one turn, as
everybody. No urgency is passed over for ever. Nothing here waits, and time is a parameter (monotonic seconds).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict, deque
from dataclasses import dataclass
from enum import IntEnum

from app.limits import AdmissionLimits

# What a turn is taken for until there is a queue to measure, and how many turns a measurement remembers.
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
        # The turn in which a node was served last. Who is forgotten counts as served long ago, which is true.
        self._served: OrderedDict[str, int] = OrderedDict()
        self._turn = 0
        self._pace = _Pace()

    def __len__(self) -> int:
        return sum(lane.count for lane in self._lanes.values())

    def waiting(self, urgency: Urgency) -> int:
        """How many wait with that urgency."""
        return self._lanes[urgency].count

    def seconds_until(self, node: str, urgency: Urgency, *, now: float) -> float:
        """How long a request would wait that came now, as far as can be foreseen."""
        before = sum(self._lanes[more_urgent].count for more_urgent in Urgency if more_urgent < urgency)
        return self._pace.seconds_for(before + self._lanes[urgency].before(node, self._served.get(node, 0)), now=now)

    def join(self, waiter: Waiter) -> Waiter | None:
        """Add a request; when there are too many, returns the last of the least urgent, which is out (maybe itself)."""
        if not self:
            self._pace.begin(now=waiter.since)
        self._lanes[waiter.urgency].add(waiter, self._served.get(waiter.node, 0))
        if len(self) <= self._limits.max_waiting:
            return None
        last = next(lane for lane in reversed(self._lanes.values()) if lane.count).last()
        self.leave(last)
        return last

    def leave(self, waiter: Waiter) -> None:
        """Take a request out that waits no more; one that is out already may leave again."""
        self._lanes[waiter.urgency].remove(waiter)

    def hurry(self, node: str) -> None:
        """What a node misses is awaited from now on."""
        for waiter in self._lanes[Urgency.MISSING].of(node):
            self.leave(waiter)
            waiter.urgency = Urgency.AWAITED
            self._lanes[Urgency.AWAITED].add(waiter, self._served.get(node, 0))

    def take(self, *, now: float) -> Waiter | None:
        """The next request, out of the line; None when nobody waits."""
        lane = self._next_lane()
        if lane is None:
            return None
        self._pace.turn(now=now)
        waiter = lane.first()
        lane.remove(waiter)
        self._turn += 1
        self._served[waiter.node] = self._turn
        self._served.move_to_end(waiter.node)
        if len(self._served) > self._limits.max_tracked_nodes:
            self._served.popitem(last=False)
        for each in self._lanes.values():
            each.served(waiter.node, self._turn)
        return waiter

    def _next_lane(self) -> _Lane | None:
        waiting = [lane for lane in self._lanes.values() if lane.count]
        if not waiting:
            return None
        chosen = max(waiting, key=lambda lane: lane.passed_over)  # of equals the most urgent
        if chosen.passed_over < self._limits.passed_over_turns:
            chosen = waiting[0]
        for lane in waiting:
            lane.passed_over += 1
        chosen.passed_over = 0
        return chosen


class _Lane:
    """The requests of one urgency."""

    def __init__(self) -> None:
        self.count = 0
        self.passed_over = 0  # turns that others got while somebody waited here
        self._waiters: dict[str, deque[Waiter]] = {}
        # Nodes in order: the turn in which each was served last, then how long it has been in the lane.
        self._order: list[tuple[int, int, str]] = []
        self._keys: dict[str, tuple[int, int, str]] = {}
        self._arrivals = 0

    def add(self, waiter: Waiter, served: int) -> None:
        """Add a request of a node that was served last in that turn."""
        if waiter.node not in self._waiters:
            self._waiters[waiter.node] = deque()
            self._place(waiter.node, served)
        self._waiters[waiter.node].append(waiter)
        self.count += 1

    def remove(self, waiter: Waiter) -> None:
        """Take a request out, if it is in."""
        waiters = self._waiters.get(waiter.node, ())
        if waiter not in waiters:
            return
        self._waiters[waiter.node].remove(waiter)
        self.count -= 1
        if not self._waiters[waiter.node]:
            del self._waiters[waiter.node]
            self._displace(waiter.node)
        if not self.count:
            self.passed_over = 0

    def served(self, node: str, turn: int) -> None:
        """A node was served, here or in another lane: its next turn comes after the others'."""
        if node in self._keys:
            self._displace(node)
            self._place(node, turn)

    def first(self) -> Waiter:
        """Whose turn it is."""
        return self._waiters[self._order[0][2]][0]

    def last(self) -> Waiter:
        """Whose turn comes last, nearly: the newest of the node that comes last."""
        return self._waiters[self._order[-1][2]][-1]

    def of(self, node: str) -> list[Waiter]:
        """The requests of a node."""
        return list(self._waiters.get(node, ()))

    def before(self, node: str, served: int) -> int:
        """How many turns come before another request of a node: nodes in front of it, and a round for each it has."""
        rounds = len(self._waiters.get(node, ()))
        key = self._keys.get(node, (served, self._arrivals + 1, node))
        return min(self.count, bisect_left(self._order, key) + rounds * len(self._order))

    def _place(self, node: str, served: int) -> None:
        self._arrivals += 1
        self._keys[node] = (served, self._arrivals, node)
        insort(self._order, self._keys[node])

    def _displace(self, node: str) -> None:
        del self._order[bisect_left(self._order, self._keys.pop(node))]


class _Pace:
    """How fast turns come while there is a queue; a stall counts as it grows."""

    def __init__(self) -> None:
        self._turns = float(_REMEMBERED_TURNS)
        self._seconds = _REMEMBERED_TURNS * _FIRST_GUESS_SECONDS
        self._last = 0.0

    def begin(self, *, now: float) -> None:
        """There is a queue from now on."""
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
