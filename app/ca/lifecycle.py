"""The life of authorities: which step is possible, which is safe, and what it changes.

Pure rules over values. A step is *allowed*, or *blocked* with the reason, what to do instead and, where time alone
helps, until when. A block that is `unsafe` would cut somebody off and may be forced; any other block cannot be
passed at all. What is at stake is always the same two things: nobody may hold a bundle without a root that others
are already certified under (so a root is given to all before it signs), and no root may leave the bundle while an
unexpired certificate needs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TypeAlias


class AuthorityRole(StrEnum):
    """What an authority is for."""

    ROOT = "root"
    ISSUING = "issuing"
    PEER = "peer"  # a root of another cluster of the same trust domain; its key is never here


class AuthorityState(StrEnum):
    """Where an authority is in its life.

    Roots are in the trust bundle until they are retired; workload certificates are signed by the one active issuing
    authority. A tainted one signs nothing; its root stays in the bundle until nobody needs it. A retired one has no
    key any more and is kept as a record.
    """

    PREPARED = "prepared"
    ACTIVE = "active"
    RETIRING = "retiring"
    RETIRED = "retired"
    TAINTED = "tainted"


class Step(StrEnum):
    """What can be done to an authority that exists."""

    ACTIVATE = "activate"  # sign with it from now on; also the way back while it is retiring
    RETIRE = "retire"  # it will not sign (any more)
    REMOVE = "remove"  # its root leaves the bundle, its key is forgotten
    TAINT = "taint"  # its key is not to be trusted


IN_BUNDLE = frozenset({AuthorityState.PREPARED, AuthorityState.ACTIVE, AuthorityState.RETIRING, AuthorityState.TAINTED})
_MAY_SIGN = frozenset({AuthorityState.PREPARED, AuthorityState.ACTIVE, AuthorityState.RETIRING})
_NAMED_REPLICAS = 5
_FOREVER = datetime.max.replace(tzinfo=UTC)
_ROOTS = frozenset({AuthorityRole.ROOT, AuthorityRole.PEER})


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """An authority as its life sees it.

    `not_after` is the end of the whole chain (None while its CSR is out); `created_at` when it came here; `since` when
    it came into its state;
    `trusted_since` when its root came into the bundle; `needed_until` the last end of what it signed.
    """

    id: str
    role: AuthorityRole
    state: AuthorityState
    since: datetime
    trusted_since: datetime
    created_at: datetime
    not_before: datetime | None = None
    not_after: datetime | None = None
    root_id: str = ""
    has_key: bool = False
    needed_until: datetime | None = None

    def share_passed(self, now: datetime) -> float:
        """How much of its life is over, from 0 to 1; a backdate is no life."""
        if self.not_after is None or self.not_before is None:
            return 0.0
        begin = max(self.not_before, self.created_at)
        return max(0.0, (now - begin) / (self.not_after - begin)) if self.not_after > begin else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """Who has received a root: holders of unexpired certificates whose newest answer carried it, of all.

    `until` is when the last certificate expires that came without it.
    """

    holders: int = 0
    covered: int = 0
    until: datetime | None = None

    @property
    def is_complete(self) -> bool:
        """Whether everybody has it."""
        return self.covered >= self.holders


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """A process that issues: the last change of authorities that it took over, and when it last said so."""

    id: str
    epoch: int
    seen_at: datetime

    def holds_up_until(self, epoch: int, rules: Rules, now: datetime) -> datetime | None:
        """Until when steps wait for it, because it may issue under what was changed; None when they do not."""
        until = self.seen_at + rules.lease
        return until if self.epoch < epoch and until > now else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What safe means here.

    `longest_life` is the longest life of a workload certificate; `settle` how long a certificate that is being
    issued may take to be on record; `lease` how long a replica issues without hearing from the database;
    `propagation` how long after its certificate's begin a holder may still go by the bundle that it had before.
    """

    longest_life: timedelta
    settle: timedelta
    lease: timedelta
    min_lives_left: int = 3
    propagation: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Everything that a step is judged by, at one moment. `coverage` is by the id of a root."""

    members: Mapping[str, Member]
    coverage: Mapping[str, Coverage] = field(default_factory=dict)
    replicas: tuple[Replica, ...] = ()
    epoch: int = 0

    def below(self, root_id: str) -> tuple[Member, ...]:
        """The issuing authorities under a root."""
        return tuple(
            one for one in self.members.values() if one.role is AuthorityRole.ISSUING and one.root_id == root_id
        )

    def active(self) -> Member | None:
        """The issuing authority that signs now."""
        for one in self.members.values():
            if one.role is AuthorityRole.ISSUING and one.state is AuthorityState.ACTIVE:
                return one
        return None


@dataclass(frozen=True, slots=True)
class Allowed:
    """The step may be done; it brings these authorities into these states, all at once."""

    changes: Mapping[str, AuthorityState]


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocked:
    """The step must not be done. With `unsafe` it is possible all the same: `changes` is what forcing it would do."""

    reason: str
    do: str
    until: datetime | None = None
    unsafe: bool = False
    changes: Mapping[str, AuthorityState] = field(default_factory=dict)


Verdict: TypeAlias = Allowed | Blocked


def judge(step: Step, authority_id: str, fleet: Fleet, rules: Rules, now: datetime) -> Verdict:
    """Whether a step may be done now, and what it changes.

    Raises:
        KeyError: for an authority that is not in the fleet.
    """
    member = fleet.members[authority_id]
    match step:
        case Step.ACTIVATE:
            return _activate(member, fleet, rules, now)
        case Step.RETIRE:
            return _retire(member, fleet)
        case Step.REMOVE:
            return _remove(member, fleet, rules, now)
        case Step.TAINT:
            return _taint(member, fleet)


def _activate(member: Member, fleet: Fleet, rules: Rules, now: datetime) -> Verdict:
    impossible = _cannot_sign(member, fleet, now)
    if impossible is not None:
        return impossible
    assert member.not_after is not None
    changes = _swap(member, fleet)
    left = member.not_after - now
    wanted = rules.min_lives_left * rules.longest_life
    if left < wanted:
        return Blocked(
            reason=f"it or an authority above it ends at {_instant(member.not_after)}, in less than "
            f"{rules.min_lives_left} times the longest life of a certificate",
            do="prepare one that lives longer, or lower limits.certificate.max_ttl_seconds",
            unsafe=True,
            changes=changes,
        )
    root = fleet.members[member.root_id]
    # A root that was active once is in every bundle that anybody gives out, late or not.
    late = fleet.replicas if root.state is AuthorityState.PREPARED else ()
    return _lasting_block(
        _unsettled(root.trusted_since, "its root came into the bundle", late, rules, now),
        _behind(fleet, rules, now),
        _uncovered(fleet.coverage.get(root.id, Coverage())),
        changes=changes,
    )


def _cannot_sign(member: Member, fleet: Fleet, now: datetime) -> Blocked | None:
    """Why nothing can be signed with it, or None."""
    return _is_no_signer(member, fleet) or _lacks_something(member, fleet, now)


def _is_no_signer(member: Member, fleet: Fleet) -> Blocked | None:
    """It signs no workload certificates by its kind or state."""
    if member.role is AuthorityRole.ROOT:
        below = [one.id for one in fleet.below(member.id) if one.state in _MAY_SIGN]
        names = ", ".join(below) or "none yet"
        return Blocked(
            reason="a root becomes active together with an issuing authority under it",
            do=f"activate that one ({names})",
        )
    if member.role is AuthorityRole.PEER:
        return Blocked(reason="it is a root of another cluster, whose key is not here", do="nothing: it is trusted")
    if member.state is AuthorityState.ACTIVE:
        return Blocked(reason="it is active already", do="nothing")
    if member.state not in _MAY_SIGN:
        return Blocked(reason=f"it is {member.state.value}", do="prepare another one: gatehouse ca rotate issuing")
    return None


def _lacks_something(member: Member, fleet: Fleet, now: datetime) -> Blocked | None:
    """A certificate, its key, its root or its time is missing."""
    if member.not_after is None or member.not_before is None:
        return Blocked(reason="its CSR is not signed yet", do="have it signed, then: gatehouse ca import FILE")
    if not member.has_key:
        return Blocked(reason="its key is not here", do="prepare another one: gatehouse ca rotate issuing")
    root = fleet.members.get(member.root_id)
    if root is None or root.state not in _MAY_SIGN:
        return Blocked(
            reason=f"its root is {root.state.value if root else 'unknown'}",
            do="prepare a new root: gatehouse ca rotate root",
        )
    if not member.not_before <= now < member.not_after:
        word = "has expired" if now >= member.not_after else f"is not valid before {_instant(member.not_before)}"
        return Blocked(reason=f"it or an authority above it {word}", do="prepare another one")
    return None


def _swap(member: Member, fleet: Fleet) -> dict[str, AuthorityState]:
    """The states after an activation: at every moment one signs and its root is active, and nobody else's."""
    changes = {
        one.id: AuthorityState.RETIRING
        for one in fleet.members.values()
        if one.state is AuthorityState.ACTIVE and one.role is not AuthorityRole.PEER
    }
    changes.update({member.id: AuthorityState.ACTIVE, member.root_id: AuthorityState.ACTIVE})
    return {authority: state for authority, state in changes.items() if fleet.members[authority].state is not state}


def _retire(member: Member, fleet: Fleet) -> Verdict:
    if member.state is AuthorityState.ACTIVE and member.role is not AuthorityRole.PEER:
        return Blocked(
            reason="it is what certificates are issued under",
            do="activate another one first; that makes this one retire",
        )
    if member.state not in (AuthorityState.PREPARED, AuthorityState.ACTIVE):
        return Blocked(reason=f"it is {member.state.value} already", do="nothing")
    changes = {member.id: AuthorityState.RETIRING}
    if member.role is AuthorityRole.ROOT:
        changes |= {
            one.id: AuthorityState.RETIRING for one in fleet.below(member.id) if one.state is AuthorityState.PREPARED
        }
    return Allowed(changes)


def _remove(member: Member, fleet: Fleet, rules: Rules, now: datetime) -> Verdict:
    if member.state is AuthorityState.RETIRED:
        return Blocked(reason="it is removed already", do="nothing")
    if member.state not in (AuthorityState.RETIRING, AuthorityState.TAINTED):
        return Blocked(reason=f"it is {member.state.value}", do=f"retire it first: gatehouse ca retire {member.id}")
    gone = [member]
    if member.role is AuthorityRole.ROOT:
        gone += [one for one in fleet.below(member.id) if one.state is not AuthorityState.RETIRED]
    if any(one.state is AuthorityState.ACTIVE for one in gone):
        return Blocked(reason="what certificates are issued under is below it", do="activate another one first")
    changes = {one.id: AuthorityState.RETIRED for one in gone}
    return _lasting_block(
        _needed(needed_until(member, fleet, rules), now),
        _unsettled(member.since, f"it came to be {member.state.value}", fleet.replicas, rules, now),
        _behind(fleet, rules, now),
        changes=changes,
    )


def _taint(member: Member, fleet: Fleet) -> Verdict:
    if member.state in (AuthorityState.TAINTED, AuthorityState.RETIRED):
        return Blocked(reason=f"it is {member.state.value} already", do="nothing")
    tainted = [member]
    if member.role is AuthorityRole.ROOT:
        tainted += [one for one in fleet.below(member.id) if one.state in _MAY_SIGN]
    changes = {one.id: AuthorityState.TAINTED for one in tainted}
    if any(one.role is AuthorityRole.ISSUING and one.state is AuthorityState.ACTIVE for one in tainted):
        return Blocked(
            reason="it is what certificates are issued under: nothing would be issued any more",
            do="activate another one first, by force if that cannot wait",
            unsafe=True,
            changes=changes,
        )
    return Allowed(changes)


def needed_until(member: Member, fleet: Fleet, rules: Rules) -> datetime | None:
    """Until when an unexpired certificate needs an authority; None when none does, or none is known to.

    What a peer's root stands for is not on record here, so it is needed for one longest life after it went away.
    """
    if member.role is AuthorityRole.PEER:
        return member.since + rules.longest_life if member.state is not AuthorityState.RETIRED else None
    signers = fleet.below(member.id) if member.role is AuthorityRole.ROOT else (member,)
    return max((one.needed_until for one in signers if one.needed_until is not None), default=None)


def _needed(until: datetime | None, now: datetime) -> Blocked | None:
    if until is None or until <= now:
        return None
    return Blocked(
        reason=f"certificates that need it are valid until {_instant(until)}",
        do="wait until then, or shorten the lives of certificates",
        until=until,
    )


def _unsettled(since: datetime, what: str, replicas: Sequence[Replica], rules: Rules, now: datetime) -> Blocked | None:
    """Whether a certificate from before a change may still come on record, from whatever replica.

    One that took the change over late may have begun some a moment before it did. After a lease every replica has
    taken it over, or has not issued for as long.
    """
    until = since + rules.settle
    if now < until + rules.lease:
        until = max([until, *(one.seen_at + rules.settle for one in replicas)])
    if until <= now:
        return None
    return Blocked(
        reason=f"{what} a moment ago, and certificates that are being issued may not be on record yet",
        do="wait a moment",
        until=until,
    )


def _behind(fleet: Fleet, rules: Rules, now: datetime) -> Blocked | None:
    waited_for = {one.id: one.holds_up_until(fleet.epoch, rules, now) for one in fleet.replicas}
    late = {name: until for name, until in waited_for.items() if until is not None}
    if not late:
        return None
    names = ", ".join(sorted(late)[:_NAMED_REPLICAS]) + (", ..." if len(late) > _NAMED_REPLICAS else "")
    return Blocked(
        reason=f"{len(late)} of {len(fleet.replicas)} replicas did not take over the last change ({names})",
        do="start it, or wait until it may not issue any more; `gatehouse ca status` says when it was last heard of",
        until=max(late.values()),
    )


def _uncovered(coverage: Coverage) -> Blocked | None:
    if coverage.is_complete:
        return None
    missing = coverage.holders - coverage.covered
    until = f", the last until {_instant(coverage.until)}" if coverage.until else ""
    return Blocked(
        reason=f"{missing} of {coverage.holders} workloads hold a certificate that came without its root{until}",
        do="wait until they renewed; `gatehouse ca show` names the nodes",
        until=coverage.until,
    )


def _lasting_block(*blocks: Blocked | None, changes: Mapping[str, AuthorityState]) -> Verdict:
    """Allowed, or of the blocks the one that lasts longest, so that its time is when all are over.

    All of these are about safety.
    """
    found = [block for block in blocks if block is not None]
    if not found:
        return Allowed(changes)
    # One without a time may last for ever; of those that last as long the first says most.
    block = max(found, key=lambda one: one.until or _FOREVER)
    return Blocked(reason=block.reason, do=block.do, until=block.until, unsafe=True, changes=changes)


def _instant(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
