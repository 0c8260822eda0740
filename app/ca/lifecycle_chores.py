"""What authorities do without being asked: a successor in time, its activation, and forgetting what nobody needs.

Pure, like `app.ca.lifecycle`, whose rules judge these steps as they judge those of people.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from app.ca.lifecycle import Allowed, AuthorityRole, AuthorityState, Fleet, Member, Rules, Step, judge


class Chore(StrEnum):
    """What the authorities do by themselves."""

    PREPARE = "prepare"  # a new issuing authority under the same parent
    ACTIVATE = "activate"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Due:
    """A chore that is due, and the authority that it is about."""

    chore: Chore
    authority_id: str


def due_chore(
    fleet: Fleet, rules: Rules, now: datetime, *, prepare_at: float, can_prepare: bool, automatic: Iterable[str]
) -> Due | None:
    """The next thing to do without being asked, or None.

    `prepare_at` is the share of the active authority's life after which its successor is prepared, `automatic` the
    ids of prepared authorities that were made without being asked: only those activate by themselves.
    """
    active = fleet.active()
    if active is None:
        return None
    asked_of_nobody = frozenset(automatic)
    successors = [
        one
        for one in fleet.members.values()
        if one.role is AuthorityRole.ISSUING and one.state is AuthorityState.PREPARED and one.id in asked_of_nobody
    ]
    for one in successors:
        if isinstance(judge(Step.ACTIVATE, one.id, fleet, rules, now), Allowed):
            return Due(Chore.ACTIVATE, one.id)
    if not successors and can_prepare and active.share_passed(now) >= prepare_at:
        return Due(Chore.PREPARE, active.root_id)
    return _removable(fleet, rules, now)


def _removable(fleet: Fleet, rules: Rules, now: datetime) -> Due | None:
    """Something that no certificate needs: a former issuing authority's key, a root that a peer gave up.

    A root of our own leaves the bundle only when somebody says so.
    """
    for one in fleet.members.values():
        if (
            one.state is AuthorityState.RETIRING
            and one.role is not AuthorityRole.ROOT
            and _is_past(one, rules, now)
            and isinstance(judge(Step.REMOVE, one.id, fleet, rules, now), Allowed)
        ):
            return Due(Chore.REMOVE, one.id)
    return None


def _is_past(member: Member, rules: Rules, now: datetime) -> bool:
    """Whether the way back is no longer of use: a retiring issuing authority can be activated again."""
    has_expired = member.not_after is not None and member.not_after <= now
    return has_expired or member.since + rules.longest_life <= now
