"""How long a workload certificate may live.

Times follow RFC 5280 §4.1.2.5: validity includes its last second. A lifetime that is granted as N seconds ends
N - 1 seconds after `now`, and starts `backdate` earlier for peers whose clocks run behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Self

from app.limits import CertificateLimits


class Clamp(StrEnum):
    """Why less was granted than asked."""

    NONE = "none"
    MAXIMUM = "maximum"  # the profile's longest lifetime
    ISSUER = "issuer"  # an element of the issuing chain ends earlier


@dataclass(frozen=True, slots=True, kw_only=True)
class TtlGrant:
    """A granted lifetime, counted from `now`."""

    seconds: int
    clamp: Clamp = Clamp.NONE

    @property
    def clamped(self) -> bool:
        """Whether less was granted than asked."""
        return self.clamp is not Clamp.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadProfile:
    """The lifetime rules of workload certificates, in seconds."""

    default_ttl_seconds: int
    max_ttl_seconds: int
    min_ttl_seconds: int
    backdate_seconds: int
    min_issuer_life_seconds: int

    @classmethod
    def from_limits(cls, limits: CertificateLimits) -> Self:
        """The profile that the limits describe.

        Raises:
            AppError: `INVALID` when they contradict each other.
        """
        raise NotImplementedError

    def granted_ttl(self, requested: int, *, now: datetime, chain_not_after: datetime) -> TtlGrant:
        """What a request for `requested` seconds gets.

        Raises:
            AppError: `INVALID` when it is absurd or below the minimum; `FAILED_PRECONDITION` when the issuing
                chain has too little life left.
        """
        raise NotImplementedError
