"""Where questions about many requests are asked: targets, protocols, and what the proxies there demand first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from app.policy.demands import Door, Doors
from app.policy.policy_view import PolicyView
from app.policy.question import target_to_json
from app.policy.target import PointKind, Target


@dataclass(frozen=True, slots=True)
class Place:
    """A target in a protocol, by proxies that demand the same; several proxies may be registered for one waypoint."""

    target: Target
    protocol: str
    door: Door

    @property
    def denies_everything(self) -> bool:
        """Whether no policy is ever asked here."""
        return all(demands.lacks_service(self.target) for demands in self.door.demands)

    def to_json(self) -> dict[str, Any]:
        """The members as JSON."""
        members = {"target": target_to_json(self.target), "protocol": self.protocol}
        return members if self.door.is_only else members | {"enforcementPoints": list(self.door.points)}


def places_at(
    views: Sequence[PolicyView], targets: Iterable[Target], protocol: str = "", point: str = ""
) -> Iterator[Place]:
    """The targets with the protocol, or with each that they know, by each door or by that of `point` alone.

    ztunnel knows connections only: there it is TCP whatever is asked.
    """
    doors = Doors(views)
    for target in targets:
        for door in doors.of(target, point):
            for one in ["tcp"] if target.kind is PointKind.ZTUNNEL else [protocol] if protocol else ["http", "tcp"]:
                yield Place(target, one, door)
