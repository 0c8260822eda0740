"""The highest sequence of each peer's bundle, durably: an old answer played back after a restart is noticed, too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

from app.authority.store import Store, Transaction

_PREFIX = "peer-sequence/"


@dataclass(frozen=True, slots=True)
class SeenBundle:
    """A bundle as it was believed last: its sequence, and the fingerprint of all its roots."""

    sequence: int
    fingerprint: str

    def __str__(self) -> str:
        return f"{self.sequence} {self.fingerprint}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The same back."""
        sequence, _, fingerprint = text.partition(" ")
        return cls(int(sequence), fingerprint)


class PeerSequences(Protocol):
    """Remembers what was believed of each peer."""

    async def last(self, peer: str) -> SeenBundle | None:
        """The bundle with the highest sequence that was believed; None when none ever was.

        Raises:
            AppError: `UNAVAILABLE`.
        """
        ...

    async def believe(self, peer: str, seen: SeenBundle) -> None:
        """Remember one, unless a later one was believed meanwhile.

        Raises:
            AppError: `UNAVAILABLE`.
        """
        ...


class StoredPeerSequences:
    """Implements `PeerSequences` in the database, for all replicas."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def last(self, peer: str) -> SeenBundle | None:
        """See `PeerSequences.last`."""
        return await self._store.read(lambda transaction: _find(transaction, peer))

    async def believe(self, peer: str, seen: SeenBundle) -> None:
        """See `PeerSequences.believe`."""

        def work(transaction: Transaction) -> None:
            transaction.lock()
            known = _find(transaction, peer)
            if known is None or known.sequence < seen.sequence:
                transaction.put_property(f"{_PREFIX}{peer}", str(seen))

        await self._store.write(work)


def _find(transaction: Transaction, peer: str) -> SeenBundle | None:
    text = transaction.find_property(f"{_PREFIX}{peer}")
    return None if text is None else SeenBundle.parse(text)
