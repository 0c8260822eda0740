"""What a proxy demands of a request before any policy is asked: a sender that it can tell, a service that is known.

One function denies what lacks it, as a worker does, for questions about one request and about many.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from app.identity.xfcc import ANNOTATION_HINT
from app.policy.decision import Decision, Reason
from app.policy.document import ENFORCEMENT_POINT
from app.policy.enforcement_point import TARGET_UNKNOWN, EnforcementPoint
from app.policy.point_callers import points_by_caller
from app.policy.policy_view import PolicyView
from app.policy.request import Unavailable
from app.policy.target import PointKind, Target

IDENTITY_UNAVAILABLE = Decision(False, Reason.IDENTITY_UNAVAILABLE, hint=ANNOTATION_HINT)


@dataclass(frozen=True, slots=True)
class Demands:
    """What every request at a proxy must have. `identity` says something at waypoints only: elsewhere it always is."""

    identity: bool = False
    service: bool = False

    def lacks_service(self, target: Target | None) -> bool:
        """Whether requests to the target are denied because it is no known service; None is a target nobody knows."""
        return target is None or (self.service and not target.services)

    def refusal(self, target: Target | None, principal: str) -> Decision | None:
        """The denial of a request of this sender to the target, None where policies are asked."""
        if self.identity and isinstance(principal, Unavailable):
            return IDENTITY_UNAVAILABLE
        return TARGET_UNKNOWN if self.lacks_service(target) else None


NO_DEMANDS = Demands()
BY_DEFAULT = Demands(identity=True)  # of a waypoint that no set has registered: as if it were, with no word about it
UNREGISTERED = Demands(identity=True, service=True)  # what comes of a call by a waypoint that is not registered


def demands_of(point: EnforcementPoint) -> Demands:
    """What a registered proxy demands."""
    return Demands(point.require_identity and point.kind is PointKind.WAYPOINT, point.require_service)


@dataclass(frozen=True, slots=True)
class Door:
    """Registered proxies (`<namespace>/<name>`) that demand the same in each of some views, and what that is.

    `is_only` says that every proxy of the target does.
    """

    points: tuple[str, ...]
    demands: tuple[Demands, ...]
    is_only: bool = True


class Doors:
    """Which proxies of some views requests to a target come by. Those whose caller is another's count for nothing."""

    def __init__(self, views: Sequence[PolicyView]) -> None:
        self._views = [
            {
                f"{point.namespace}/{point.name}": point
                for point in points_by_caller(view.values.of(ENFORCEMENT_POINT)).values()
            }
            for view in views
        ]
        self._names: dict[tuple[str, str], dict[str, None]] = {}
        for points in self._views:
            for name, point in sorted(points.items(), key=lambda item: item[0]):
                if point.kind is PointKind.WAYPOINT:
                    self._names.setdefault((point.namespace, point.gateway), {})[name] = None

    def of(self, target: Target, point: str = "") -> Iterator[Door]:
        """Each set of demands that requests to the target meet, at `point` alone where one is named."""
        if target.kind is not PointKind.WAYPOINT:
            yield Door((), (NO_DEMANDS,) * len(self._views))
            return
        place = target.namespace, target.gateway_name
        names = [point] if point else list(self._names.get(place, ()))
        found: dict[tuple[Demands, ...], list[str]] = {}
        for name in names:
            found.setdefault(tuple(_demands(points.get(name), place) for points in self._views), []).append(name)
        for demands, alike in found.items():
            yield Door(tuple(alike), demands, len(found) == 1)
        if not found:
            yield Door((), (BY_DEFAULT,) * len(self._views))


def _demands(point: EnforcementPoint | None, place: tuple[str, str]) -> Demands:
    if point is None or point.kind is not PointKind.WAYPOINT or (point.namespace, point.gateway) != place:
        return UNREGISTERED
    return demands_of(point)
