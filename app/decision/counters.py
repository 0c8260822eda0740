"""What a worker counts: plain integers on the hot path, read and exported by somebody else."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, TypeVar

from app.policy.decision import Decision, Reason
from app.policy.shadow import ShadowVerdict

# Upper bounds of the latency histogram, in seconds; the last bucket has none.
LATENCY_BOUNDS = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25)

MAX_NAMED = 200  # policies and providers that are counted by name; later ones are counted together, without one


class ProviderOutcome(StrEnum):
    """What came of asking a provider; all but the first deny."""

    ALLOWED = "allowed"
    DENIED = "denied"
    TIMEOUT = "timeout"
    FAILED = "failed"
    UNKNOWN = "unknown"  # no document has the name
    PARTIAL_BODY = "partial_body"  # not asked, because the body was cut


class CheckCounters:
    """Counts since the process started."""

    __slots__ = (
        "allowed",
        "denied",
        "errors",
        "grants",
        "latency",
        "providers",
        "refused_effects",
        "seconds",
        "shadow",
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
        # By outlook and policy; the latter is empty where none makes a difference.
        self.shadow: dict[tuple[str, str], int] = {}
        self.grants: dict[tuple[str, str], int] = {}  # by the reason that was lifted, and by grant

        # By outcome and provider.
        self.providers: dict[tuple[ProviderOutcome, str], int] = {}

    def add(self, decision: Decision, seconds: float) -> None:
        """Count one decision and the time it took inside the worker."""
        self.total += 1
        self.seconds += seconds
        (self.allowed if decision.allowed else self.denied)[decision.reason] += 1
        self.latency[bisect_left(LATENCY_BOUNDS, seconds)] += 1

    def add_shadow(self, verdict: ShadowVerdict) -> None:
        """Count one shadow verdict."""
        count_named(self.shadow, (verdict.outlook.value, verdict.policy), (verdict.outlook.value, ""))

    def add_grant(self, name: str, lifted: Reason) -> None:
        """Count one request that passed by a grant, and what it would have been denied for."""
        count_named(self.grants, (lifted.value, name), (lifted.value, ""))

    def add_provider(self, name: str, outcome: ProviderOutcome) -> None:
        """Count what came of asking a provider."""
        count_named(self.providers, (outcome, name), (outcome, ""))

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
            "shadow": _nested(self.shadow),
            "providers": _nested(self.providers),
            "grants": _nested(self.grants),
        }


K = TypeVar("K")
W = TypeVar("W", bound=str)


def count_named(counts: dict[K, int], key: K, instead: K) -> None:
    """Count under a key, or when there are too many of them, under another one."""
    if key not in counts and len(counts) >= MAX_NAMED:
        key = instead
    counts[key] = counts.get(key, 0) + 1


def _nested(counts: Mapping[tuple[W, str], int]) -> dict[str, dict[str, int]]:
    nested: dict[str, dict[str, int]] = {}
    for (word, name), count in counts.items():
        nested.setdefault(str(word), {})[name] = count
    return nested
