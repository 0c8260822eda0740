"""What a worker counts: plain integers on the hot path, read and exported by somebody else."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

from app.policy.decision import Decision, Reason

# Upper bounds of the latency histogram, in seconds; the last bucket has none.
LATENCY_BOUNDS = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25)


class CheckCounters:
    """Counts since the process started."""

    __slots__ = (
        "allowed",
        "denied",
        "errors",
        "latency",
        "refused_effects",
        "seconds",
        "total",
        "unavailable_identities",
    )

    def __init__(self) -> None:
        self.total = 0
        self.seconds = 0.0
        self.allowed: dict[Reason, int] = dict.fromkeys(Reason, 0)
        self.denied: dict[Reason, int] = dict.fromkeys(Reason, 0)
        self.latency = [0] * (len(LATENCY_BOUNDS) + 1)
        self.unavailable_identities = 0  # also where the point does not require an identity
        self.errors = 0  # decisions that failed inside and were denied
        self.refused_effects = 0  # answers that asked for what HTTP does not allow, or for too much of it

    def add(self, decision: Decision, seconds: float) -> None:
        """Count one decision and the time it took inside the worker."""
        self.total += 1
        self.seconds += seconds
        (self.allowed if decision.allowed else self.denied)[decision.reason] += 1
        self.latency[bisect_left(LATENCY_BOUNDS, seconds)] += 1

    def to_json(self) -> dict[str, Any]:
        """The counts for the status report; reasons that never came up are left out."""
        return {
            "checks": self.total,
            "checkSeconds": round(self.seconds, 6),
            "allowed": {reason.value: count for reason, count in self.allowed.items() if count},
            "denied": {reason.value: count for reason, count in self.denied.items() if count},
            "unavailableIdentities": self.unavailable_identities,
            "errors": self.errors,
            "refusedEffects": self.refused_effects,
        }
