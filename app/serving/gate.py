"""Counts connections, in total and per address, and decides who has to go when there is no room.

A plain limit on connections is a gift to an attacker: a few that do nothing fill it and everybody else is turned
away. Here a full house first sends away whoever is *not being served*: connections that are idle, that have not
finished their headers, or whose body has stalled; the busiest address first, the oldest connection first. Only
when every connection is at work is a newcomer refused, and told so.
"""

from __future__ import annotations

from collections import Counter
from typing import Generic, Protocol, TypeVar


class Connection(Protocol):
    """What the gate needs to know of an admitted connection."""

    @property
    def address(self) -> str:
        """The peer's address; empty when it has none (a UNIX socket)."""
        ...

    @property
    def opened_at(self) -> float:
        """When it was accepted, on the loop's clock."""
        ...

    def is_expendable(self, now: float) -> bool:
        """Whether nothing is being done for it right now."""
        ...

    def send_away(self) -> None:
        """Close it at once; it must have left the gate when this returns."""
        ...


C = TypeVar("C", bound=Connection)


class ConnectionGate(Generic[C]):
    """The admitted connections of one listener."""

    def __init__(self, *, max_connections: int, max_per_address: int) -> None:
        self._max_connections = max_connections
        self._max_per_address = max_per_address
        self._members: set[C] = set()
        self._per_address: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._members)

    def members(self) -> tuple[C, ...]:
        """Everybody inside."""
        return tuple(self._members)

    def enter(self, connection: C, now: float) -> bool:
        """Admit a connection if there is, or can be made, room for it."""
        address = connection.address
        if address and self._per_address[address] >= self._max_per_address:
            self._send_one_away(now, address)
            if self._per_address[address] >= self._max_per_address:
                return False
        if len(self._members) >= self._max_connections:
            self._send_one_away(now, "")
            if len(self._members) >= self._max_connections:
                return False
        self._members.add(connection)
        self._per_address[address] += 1
        return True

    def leave(self, connection: C) -> None:
        """Take a connection off the count; a second call does nothing."""
        if connection not in self._members:
            return
        self._members.discard(connection)
        self._per_address[connection.address] -= 1
        if self._per_address[connection.address] <= 0:
            del self._per_address[connection.address]

    def _send_one_away(self, now: float, address: str) -> None:
        candidates = [
            member
            for member in self._members
            if (not address or member.address == address) and member.is_expendable(now)
        ]
        if candidates:
            victim = min(candidates, key=lambda member: (-self._per_address[member.address], member.opened_at))
            victim.send_away()
            self.leave(victim)
