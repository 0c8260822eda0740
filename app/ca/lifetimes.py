"""Which lifetime a workload's certificate gets: rules by namespace and account, spreading, and a deadline.

A rule gives some of default, minimum and maximum for a namespace, for a service account, or for both; each value
comes from the most specific rule that has it. Renewals are *spread*: a node proxy renews at half of the lifetime,
without jitter, so certificates that were made together would be renewed together for ever. A lifetime is therefore
shortened by a share that depends on node and identity alone: always the same, so nothing needs to be remembered. While
the mesh *converges*, every lifetime is so short that its renewal falls before a deadline.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from app.ca.profile import ABSURD_TTL_SECONDS, Clamp, TtlGrant, WorkloadProfile
from app.errors import AppError, ErrorCode

MAX_SPREAD_FRACTION = 0.5
# Of what is left until the deadline: the renewal needs some of it to happen, and to be tried again.
_CONVERGE_WITHIN = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class LifetimeRule:
    """Lifetimes in seconds for whom it names; an empty name stands for every one, None leaves a value to others.

    A namespace is more specific than an account alone, and both together are most specific.
    """

    namespace: str = ""
    service_account: str = ""
    default_seconds: int | None = None
    minimum_seconds: int | None = None
    maximum_seconds: int | None = None

    @property
    def name(self) -> str:
        """How the rule is called in messages."""
        return f"{self.namespace or '*'}/{self.service_account or '*'}"


class WorkloadLifetimes:
    """The lifetimes of one authority: the profile of all, and the rules on top."""

    def __init__(
        self,
        profile: WorkloadProfile,
        rules: Iterable[LifetimeRule] = (),
        *,
        refuse_over_long: bool = False,
        spread_fraction: float = 0.0,
    ) -> None:
        """Take the rules.

        Raises:
            AppError: `INVALID` when a rule contradicts itself or the profile, or is there twice.
        """
        if not 0.0 <= spread_fraction <= MAX_SPREAD_FRACTION:
            raise _invalid(f"the spread fraction must be between 0 and {MAX_SPREAD_FRACTION}, not {spread_fraction}")
        self._profile = profile
        self._rules: dict[tuple[str, str], LifetimeRule] = {}
        self._refuse_over_long = refuse_over_long
        self._spread_fraction = spread_fraction
        for rule in rules:
            _check(rule, profile)
            if self._rules.setdefault((rule.namespace, rule.service_account), rule) is not rule:
                raise _invalid(f"there are two rules for {rule.name}")

    @property
    def profile(self) -> WorkloadProfile:
        """The lifetimes of whom no rule names."""
        return self._profile

    @property
    def spread_fraction(self) -> float:
        """The greatest share by which a lifetime is shortened for spreading."""
        return self._spread_fraction

    def profile_for(self, namespace: str, service_account: str) -> WorkloadProfile:
        """The lifetimes of one workload.

        What a more specific rule says holds; values that it leaves open move out of its way.
        """
        minimum, maximum = self._profile.min_ttl_seconds, self._profile.max_ttl_seconds
        default = self._profile.default_ttl_seconds
        for names in (("", ""), ("", service_account), (namespace, ""), (namespace, service_account)):
            rule = self._rules.get(names)
            if rule is None:
                continue
            given = [value for value in (rule.minimum_seconds, rule.default_seconds, rule.maximum_seconds) if value]
            minimum = rule.minimum_seconds or min(minimum, *given)
            maximum = rule.maximum_seconds or max(maximum, *given)
            default = rule.default_seconds or default
        return replace(
            self._profile,
            min_ttl_seconds=minimum,
            max_ttl_seconds=maximum,
            default_ttl_seconds=min(max(default, minimum), maximum),
            min_issuer_life_seconds=max(self._profile.min_issuer_life_seconds, minimum),
        )

    def grant(
        self,
        requested: int,
        *,
        namespace: str,
        service_account: str,
        spread_by: str,
        now: datetime,
        chain_not_after: datetime,
        converge_by: datetime | None = None,
    ) -> TtlGrant:
        """What a request of a workload for `requested` seconds gets.

        Args:
            requested: seconds; zero and less ask for the default.
            namespace: of the workload.
            service_account: of the workload.
            spread_by: the text by which renewals are spread (node and identity); empty does not spread.
            now: the current time.
            chain_not_after: when the first element of the issuing chain ends.
            converge_by: until when the certificate shall have been renewed.

        Raises:
            AppError: as `WorkloadProfile.granted_ttl`; `INVALID` for too much, where that is refused.
        """
        profile = self.profile_for(namespace, service_account) if self._rules else self._profile
        if self._refuse_over_long and profile.max_ttl_seconds < requested < ABSURD_TTL_SECONDS:
            raise AppError(
                ErrorCode.INVALID,
                f"requested TTL {go_duration(requested)} is greater than the max allowed TTL "
                f"{go_duration(profile.max_ttl_seconds)}",
                diagnosis="lifetime_over_long: this authority refuses what it would otherwise shorten",
            )
        grant = profile.granted_ttl(requested, now=now, chain_not_after=chain_not_after)
        if converge_by is not None and converge_by > now:
            grant = _converging(grant, profile, (converge_by - now).total_seconds())
        return self._spread(grant, profile, spread_by)

    def _spread(self, grant: TtlGrant, profile: WorkloadProfile, spread_by: str) -> TtlGrant:
        if not spread_by or not self._spread_fraction:
            return grant
        cut = int(grant.seconds * self._spread_fraction * share_of(spread_by))
        cut = max(0, min(cut, grant.seconds - profile.min_ttl_seconds))
        return replace(grant, seconds=grant.seconds - cut, spread_seconds=cut)


def share_of(text: str) -> float:
    """A share from 0 up to 1 that depends on the text alone, evenly over many texts."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) / 2.0**48


def renewal_delay_seconds(ttl_seconds: int, backdate_seconds: int) -> float:
    """How long after it was made a certificate of `ttl_seconds` is renewed: at half of what stands in it.

    The stated validity begins `backdate_seconds` earlier and ends a second before the lifetime is over.
    """
    return (ttl_seconds - 1 - backdate_seconds) / 2


def go_duration(seconds: int) -> str:
    """A duration as Go prints it (`3h0m0s`), which is what clients of istiod know."""
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def _converging(grant: TtlGrant, profile: WorkloadProfile, left_seconds: float) -> TtlGrant:
    """Short enough to be renewed before the deadline, but never below the minimum."""
    short = int(2 * _CONVERGE_WITHIN * left_seconds) + profile.backdate_seconds + 1
    short = max(short, profile.min_ttl_seconds)
    return grant if grant.seconds <= short else TtlGrant(seconds=short, clamp=Clamp.CONVERGENCE)


def _check(rule: LifetimeRule, profile: WorkloadProfile) -> None:
    values = (rule.minimum_seconds, rule.default_seconds, rule.maximum_seconds)
    if all(value is None for value in values):
        raise _invalid(f"the rule for {rule.name} says nothing: give a default, a minimum or a maximum")
    given = [value for value in values if value is not None]
    if given != sorted(given):
        raise _invalid(f"minimum, default and maximum of the rule for {rule.name} must be in ascending order")
    floor = max(2 * profile.backdate_seconds, 1)
    if min(given) < floor:
        raise _invalid(
            f"the rule for {rule.name} goes below {floor} s, twice the backdate: a ztunnel would ask in a tight loop"
        )
    if max(given) > profile.max_ttl_seconds:
        raise _invalid(
            f"the rule for {rule.name} goes beyond the maximum of {profile.max_ttl_seconds} s that holds for all; "
            "raise limits.certificate.max_ttl_seconds first"
        )


def _invalid(reason: str) -> AppError:
    return AppError(ErrorCode.INVALID, reason)
