"""The administration's port to the database: synchronous units of work, run by an adapter in its own threads.

A unit of work is a plain function over a `Transaction`. The adapter may run many in one commit, each shielded
from the failure of the others; `write` returns after the commit was durable. What a unit read is still true when
it commits: writers of administration are serialised.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Transaction(Protocol):
    """What a unit of work may do (grows below)."""


class Store(Protocol):
    """Runs units of work."""

    async def read(self, work: Callable[[Any], T]) -> T:
        """Run a unit that only reads, over one consistent state.

        Raises:
            AppError: `UNAVAILABLE`, `OVERLOADED`, and whatever the unit raises.
        """
        ...

    async def write(self, work: Callable[[Any], T]) -> T:
        """Run a unit that may write; returns after the commit.

        Raises:
            AppError: `UNAVAILABLE` when nothing is certain to be stored, `OVERLOADED` when nothing was tried,
                and whatever the unit raises (then nothing of it is stored).
        """
        ...
