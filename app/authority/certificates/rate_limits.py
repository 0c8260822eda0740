"""Token buckets by key, bounded in number.

A bucket that nobody used for long is full, so forgetting the least recently used one gives away at most one burst:
the limit fails open, and only the limit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class TokenBuckets(Generic[Key]):
    """One bucket a key: `burst` at once, `rate_per_second` in the long run. Time is a parameter (monotonic seconds)."""

    def __init__(self, *, rate_per_second: float, burst: int, max_keys: int) -> None:
        self._rate = rate_per_second
        self._burst = float(burst)
        self._max_keys = max_keys
        self._buckets: OrderedDict[Key, tuple[float, float]] = OrderedDict()

    def take(self, key: Key, *, now: float) -> bool:
        """Take one token of `key`; False when there is none."""
        tokens, since = self._buckets.get(key, (self._burst, now))
        tokens = min(self._burst, tokens + max(0.0, now - since) * self._rate)
        allowed = tokens >= 1.0
        self._buckets[key] = (tokens - 1.0 if allowed else tokens, now)
        self._buckets.move_to_end(key)
        if len(self._buckets) > self._max_keys:
            self._buckets.popitem(last=False)
        return allowed

    def has(self, key: Key, *, now: float) -> bool:
        """Whether `take` would give a token now; nothing is taken."""
        tokens, since = self._buckets.get(key, (self._burst, now))
        return min(self._burst, tokens + max(0.0, now - since) * self._rate) >= 1.0

    def newest_first(self) -> Iterator[Key]:
        """The keys that are remembered, the one that was used last first."""
        return reversed(self._buckets)

    def __len__(self) -> int:
        return len(self._buckets)
