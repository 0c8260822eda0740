"""What a worker decides by: one immutable state, replaced by one assignment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from app.policy.authentication_index import AuthenticationIndex
from app.policy.document_values import NO_VALUES, DocumentValues
from app.policy.enforcement_point import EnforcementPoint
from app.policy.grant_index import GrantIndex
from app.policy.mesh import MeshConfig
from app.policy.point_callers import points_by_caller
from app.policy.quarantine import QuarantineIndex
from app.policy.rule_table import RuleTable
from app.policy.services import ServiceIndex
from app.policy.target import Target


@dataclass(frozen=True, slots=True)
class EnforcementPoints:
    """The registered proxies, by how a worker recognises them."""

    by_listener: Mapping[str, EnforcementPoint]
    by_spiffe_id: Mapping[str, EnforcementPoint]
    behind_ztunnel: Mapping[str, EnforcementPoint]

    @classmethod
    def index(cls, points: Mapping[str, EnforcementPoint]) -> EnforcementPoints:
        """Index points given by their keys; whose a caller is that several claim says `app.policy.point_callers`."""
        by_listener: dict[str, EnforcementPoint] = {}
        by_spiffe_id: dict[str, EnforcementPoint] = {}
        behind_ztunnel: dict[str, EnforcementPoint] = {}
        for (listener, spiffe_id, via_ztunnel), point in points_by_caller(points).items():
            if listener:
                by_listener[listener] = point
            elif spiffe_id and via_ztunnel:
                behind_ztunnel[spiffe_id] = point
            elif spiffe_id:
                by_spiffe_id[spiffe_id] = point
        return cls(by_listener, by_spiffe_id, behind_ztunnel)


class Further(Enum):
    """That an address alone does not say what a request is decided for."""

    EVIDENCE = 0


@dataclass(frozen=True, slots=True)
class TrustMaterial:
    """The trust bundle of the snapshot, empty when it carries none."""

    trust_domain: str = ""
    pem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionState:
    """One snapshot, ready to decide by. `loaded_at` is monotonic time.

    `targets` remembers what a destination address says, by calling point; the table, the services and the points
    never change under it, so what is in it stays true.
    """

    number: int
    revision: int
    inventory_generation: int
    etag: str
    table: RuleTable
    services: ServiceIndex
    points: EnforcementPoints
    mesh: MeshConfig
    trust: TrustMaterial
    documents: int
    loaded_at: float
    quarantines: QuarantineIndex | None = None  # None when nobody is in quarantine: one test on the hot path
    authentications: AuthenticationIndex | None = None  # None when no RequestAuthentication is there
    grants: GrantIndex | None = None  # None when there are none, likewise
    values: DocumentValues = NO_VALUES
    targets: dict[tuple[int, str, int], Target | Further | None] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class Rejection:
    """A snapshot that was offered and could not be loaded, and why."""

    number: int
    revision: int
    reason: str


class StateHolder:
    """The one mutable place: which state serves, and when the authority last confirmed it."""

    __slots__ = ("_monotonic", "checked_at", "confirmed", "rejection", "stale", "state", "swapped")

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self.state: DecisionState | None = None
        self.rejection: Rejection | None = None
        self.checked_at = monotonic()
        self.swapped = asyncio.Event()  # set by every swap; who waits for the next one clears it
        self.confirmed = False  # by the authority, since this process started
        self.stale = False  # noted by whoever looks at the age; every answer says so

    def swap(self, state: DecisionState) -> None:
        """Serve from `state` from now on."""
        self.state = state
        self.swapped.set()

    def confirm(self) -> None:
        """The authority answered just now: what is served here is the newest that can be."""
        self.checked_at = self._monotonic()
        self.confirmed = True
        self.stale = False

    def note_age(self, stale_after_seconds: float) -> None:
        """Look whether the authority was not heard for so long: not in every Check, which has no time for a clock."""
        self.stale = self.age_seconds() > stale_after_seconds

    def age_seconds(self) -> float:
        """Seconds since the authority was last heard, by a clock that does not jump."""
        return self._monotonic() - self.checked_at
