"""How long a workload certificate may live.

Times follow RFC 5280 §4.1.2.5: validity includes its last second. A lifetime that is granted as N seconds ends
N - 1 seconds after `now`, and starts `backdate` earlier for peers whose clocks run behind.

A request for too much is clamped and not refused: a node proxy would repeat a refused request for ever. A
request for too little is refused, because ztunnel renews at half of the whole lifetime, backdate included: with a
lifetime of no more than the backdate that moment has already passed, and it would ask in a tight loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Self

from app.errors import AppError, ErrorCode
from app.limits import CertificateLimits

# No lifetime reaches 68 years; numbers beyond are a client's overflow, not a wish.
ABSURD_TTL_SECONDS = 2**31


class Clamp(StrEnum):
    """Why less was granted than asked."""

    NONE = "none"
    MAXIMUM = "maximum"  # the profile's longest lifetime
    ISSUER = "issuer"  # an element of the issuing chain ends earlier
    CONVERGENCE = "convergence"  # the mesh shall have renewed everything by a deadline


@dataclass(frozen=True, slots=True, kw_only=True)
class TtlGrant:
    """A granted lifetime, counted from `now`.

    `spread_seconds` is what was taken off so that renewals do not come all at once; that is no clamp.
    """

    seconds: int
    clamp: Clamp = Clamp.NONE
    spread_seconds: int = 0

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
        if limits.backdate_seconds < 0 or limits.min_ttl_seconds < max(2 * limits.backdate_seconds, 1):
            raise AppError(
                ErrorCode.INVALID,
                "certificate limits: min_ttl_seconds must be at least twice backdate_seconds, "
                "or a ztunnel would ask for new certificates in a tight loop",
            )
        if not limits.min_ttl_seconds <= limits.default_ttl_seconds <= limits.max_ttl_seconds < ABSURD_TTL_SECONDS:
            raise AppError(
                ErrorCode.INVALID,
                "certificate limits: min_ttl_seconds <= default_ttl_seconds <= max_ttl_seconds must hold",
            )
        return cls(
            default_ttl_seconds=limits.default_ttl_seconds,
            max_ttl_seconds=limits.max_ttl_seconds,
            min_ttl_seconds=limits.min_ttl_seconds,
            backdate_seconds=limits.backdate_seconds,
            min_issuer_life_seconds=max(limits.min_issuer_life_seconds, limits.min_ttl_seconds),
        )

    def granted_ttl(self, requested: int, *, now: datetime, chain_not_after: datetime) -> TtlGrant:
        """What a request for `requested` seconds gets; zero and less ask for the default.

        Raises:
            AppError: `INVALID` when it is absurd or below the minimum; `FAILED_PRECONDITION` when the issuing
                chain has too little life left.
        """
        if requested >= ABSURD_TTL_SECONDS:
            raise AppError(
                ErrorCode.INVALID,
                f"the requested lifetime of {requested} s is not a lifetime",
                diagnosis="lifetime_absurd: no certificate lives for so long",
            )
        if 0 < requested < self.min_ttl_seconds:
            raise AppError(
                ErrorCode.INVALID,
                f"the requested lifetime of {requested} s is below the minimum of {self.min_ttl_seconds} s",
                diagnosis="lifetime_below_minimum: a ztunnel would renew so short a certificate in a loop",
            )
        issuer_life = int((chain_not_after - now).total_seconds())
        if issuer_life < self.min_issuer_life_seconds:
            raise AppError(
                ErrorCode.FAILED_PRECONDITION,
                "the issuing authority is about to expire",
                diagnosis=f"issuer_expiring: the issuing chain ends in {issuer_life} s, "
                f"less than the {self.min_issuer_life_seconds} s that it must have left; replace the authority",
            )
        grant = TtlGrant(seconds=requested if requested > 0 else self.default_ttl_seconds)
        if grant.seconds > self.max_ttl_seconds:
            grant = TtlGrant(seconds=self.max_ttl_seconds, clamp=Clamp.MAXIMUM)
        if grant.seconds > issuer_life:
            grant = TtlGrant(seconds=issuer_life, clamp=Clamp.ISSUER)
        return grant


def max_workload_lifetime(limits: CertificateLimits) -> timedelta:
    """The longest validity that any workload certificate may have, backdate and both ends included."""
    return timedelta(seconds=limits.max_ttl_seconds + limits.backdate_seconds)
