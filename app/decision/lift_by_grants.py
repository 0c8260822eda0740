"""Lets grants answer what policies denied, and never in silence: each use is counted, and said in the log.

The lines are bounded, because a grant may let in thousands a second: the first use by each peer, and then now and again
one with how often since.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import structlog

from app.decision.counters import CheckCounters
from app.policy.decision import Decision
from app.policy.grant_index import GrantIndex, GrantsAt
from app.policy.request import Request
from app.policy.target import Target

_log = structlog.get_logger(__name__)

LOG_EVERY_SECONDS = 10.0  # for each grant and peer
_MAX_REMEMBERED = 4_096  # grants and peers; when there are more, the memory starts anew
_MAX_SHOWN = 256  # characters of a path


class GrantDesk:
    """Asks the grants of a state; remembers, for each grant and peer, what of its use is not in the log yet."""

    def __init__(self, counters: CheckCounters, clock: Callable[[], float]) -> None:
        """`clock` is the time of day, by which grants begin and end."""
        self._counters = counters
        self._clock = clock
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}

    def now(self, grants: GrantIndex) -> GrantsAt:
        """The grants as they stand at this moment."""
        return grants.at(datetime.fromtimestamp(self._clock(), UTC))

    def lift(self, grants: GrantsAt, target: Target, request: Request, decision: Decision) -> Decision:
        """The decision after the grants were asked."""
        granted = grants.lift(target, request, decision)
        if granted is not decision:
            self._counters.add_grant(granted.policy, decision.reason)
            self._note(granted, decision, target, request)
        return granted

    def _note(self, granted: Decision, lifted: Decision, target: Target, request: Request) -> None:
        key = granted.policy, request.principal
        now = self._clock()
        logged_at, unlogged = self._seen.get(key, (float("-inf"), 0))
        if 0 <= now - logged_at < LOG_EVERY_SECONDS:
            self._seen[key] = (logged_at, unlogged + 1)
            return
        if key not in self._seen and len(self._seen) >= _MAX_REMEMBERED:
            self._seen.clear()
        self._seen[key] = (now, 0)
        _log.warning(
            "grant_used",
            grant=granted.policy,
            hint=granted.hint,
            principal=request.principal,
            target=[f"{service.namespace}/{service.name}" for service in target.services] or target.namespace,
            method=request.method,
            path=request.path.partition("?")[0][:_MAX_SHOWN],
            lifted=lifted.reason.value,
            lifted_policy=lifted.policy,
            lifted_rule=lifted.rule,
            uses=unlogged + 1,
        )
