"""How often a caller may ask: by node, by identity on a node, and not in a loop; and when it is its turn.

Shared by all ports. Everything here runs on monotonic time: a wall clock that jumps must neither lock callers out nor
let them flood.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from app.authority.certificates.admission import Admission
from app.authority.certificates.certificate_request import Attempt, CertificateStep
from app.authority.certificates.issue_certificate import Issued
from app.authority.certificates.loop_guard import LoopGuard
from app.authority.certificates.rate_limits import TokenBuckets
from app.authority.ports import MonotonicClock, TokenCaller
from app.ca.impersonation import NodeCaller
from app.ca.lifetimes import renewal_delay_seconds
from app.errors import AppError, ErrorCode
from app.limits import CertificateLimits

CallerKey = tuple[str, str, str, str]  # issuer, account, cluster and node, pod or presented certificate


class RequestGuards:
    """The bounds of what one caller, and one caller for one identity, may ask for.

    `admission` is the bound of what all of them together have worked on at once.
    """

    def __init__(self, limits: CertificateLimits, clock: MonotonicClock, admission: Admission) -> None:
        self.admission = admission
        self._clock = clock
        self._nodes: TokenBuckets[CallerKey] = _buckets(limits, limits.node_rate_per_second, limits.node_burst)
        self._identities: TokenBuckets[tuple[CallerKey, str]] = _buckets(
            limits, limits.identity_rate_per_second, limits.identity_burst
        )
        self._loops = LoopGuard(limits)
        self._backdate_seconds = limits.backdate_seconds

    def admit_caller(self, caller: TokenCaller, attempt: Attempt) -> None:
        """Count one request of a caller.

        Raises:
            AppError: `RATE_LIMITED`.
        """
        attempt.step = CertificateStep.RATE
        if not self._nodes.take(_key(caller), now=self._clock.monotonic()):
            raise _too_many()

    def admit_identity(self, caller: TokenCaller, attempt: Attempt) -> None:
        """Count one request of a caller for an identity.

        By caller and identity: an identity that runs on a thousand nodes is asked for a thousand times at once.

        Raises:
            AppError: `RATE_LIMITED`; with the diagnosis `renewal_loop` when it asks long before it needs to.
        """
        attempt.step = CertificateStep.IDENTITY_RATE
        key, now = (_key(caller), attempt.identity), self._clock.monotonic()
        if not self._identities.take(key, now=now):
            raise _too_often()
        attempt.step = CertificateStep.LOOP
        key = _loop_key(caller, attempt)
        try:
            self._loops.check(key, now=now, is_early=attempt.is_early)
        except AppError:
            attempt.is_worth_a_line = self._loops.is_news(key, now=now)
            raise

    def issued(self, caller: TokenCaller, attempt: Attempt, issued: Issued) -> None:
        """A caller got a certificate for an identity; asking again much before it is due is early."""
        self._loops.issued(
            _loop_key(caller, attempt),
            now=self._clock.monotonic(),
            renewal_in_seconds=renewal_delay_seconds(issued.grant.seconds, self._backdate_seconds),
        )

    def newest(self, caller: NodeCaller, is_cluster: Callable[[str], bool]) -> CallerKey | None:
        """Which caller of that account and place asked last; None when none is remembered. Looks at all of them."""
        return next((key for key in self._nodes.newest_first() if _is_of(key, caller, is_cluster)), None)

    def check_caller(self, key: CallerKey) -> None:
        """Refuse what `admit_caller` would refuse now, and count nothing.

        Raises:
            AppError: `RATE_LIMITED`.
        """
        if not self._nodes.has(key, now=self._clock.monotonic()):
            raise _too_many()

    def check_identity(self, key: CallerKey, identity: str) -> None:
        """Refuse what `admit_identity` would refuse now because of its rate, and count nothing.

        Raises:
            AppError: `RATE_LIMITED`.
        """
        if not self._identities.has((key, identity), now=self._clock.monotonic()):
            raise _too_often()

    def check_loop(self, key: CallerKey, identity: str) -> None:
        """Refuse what would be a turn of a loop now, and count nothing.

        Raises:
            AppError: `RATE_LIMITED`.
        """
        self._loops.foresee((key, identity), now=self._clock.monotonic())


def _too_many() -> AppError:
    return AppError(
        ErrorCode.RATE_LIMITED,
        "this node asks for too many certificates; slow down",
        diagnosis="node_rate: the caller asks for more certificates than its rate and burst allow",
    )


def _too_often() -> AppError:
    return AppError(
        ErrorCode.RATE_LIMITED,
        "this node asks too often for this identity; slow down",
        diagnosis="identity_rate: the caller asks for this identity more often than its rate and burst allow",
    )


def _buckets(limits: CertificateLimits, rate: float, burst: int) -> TokenBuckets[Any]:
    return TokenBuckets(rate_per_second=rate, burst=burst, max_keys=limits.max_tracked_callers)


def _is_of(key: CallerKey, caller: NodeCaller, is_cluster: Callable[[str], bool]) -> bool:
    """Whether that is the caller's key, by what an operator knows of it: never the issuer, seldom the pod."""
    _, account, place, pod_uid = key
    cluster, _, node = place.partition("/")
    if account != caller.account or not is_cluster(cluster):
        return False
    if caller.pod_uid:
        return pod_uid == caller.pod_uid
    return node == caller.node_name


def _key(caller: TokenCaller) -> CallerKey:
    """One caller: its account and where it runs. Pods of one account on one node are callers of their own."""
    return (
        caller.issuer,
        f"{caller.namespace}/{caller.service_account}",
        f"{caller.cluster}/{caller.node_name}",
        caller.pod_uid or caller.renewed_serial,
    )


def _loop_key(caller: TokenCaller, attempt: Attempt) -> tuple[CallerKey, str]:
    """A renewal has a new serial number each time: what loops is the workload on its node."""
    return (_key(replace(caller, renewed_serial="") if caller.renewed_serial else caller), attempt.identity)
