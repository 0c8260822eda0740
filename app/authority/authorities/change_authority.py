"""Activates, retires, removes and taints authorities; what is unsafe only with a second administrator."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from app.authority.actor import Actor, Role
from app.authority.authorities.authorities import Authorities
from app.authority.authorities.authority_ports import AuthorityRole, StoredAuthority
from app.authority.authorities.authority_set import AuthoritySet
from app.authority.authorities.authority_store import PendingAct
from app.authority.authorities.commit_authorities import AuthorityChange, with_states
from app.authority.authorities.pending_acts import PendingActs
from app.ca.lifecycle import Allowed, Blocked, Fleet, Step, Verdict, judge
from app.errors import AppError, ErrorCode

FORCED_STEP = "authority.step"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepAsked:
    """A step that somebody wants. `force`: if it is unsafe, ask for a second administrator instead of refusing."""

    step: Step
    authority_id: str
    reason: str = ""
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDone:
    """What became of it: the states afterwards, or the act that waits for a second administrator."""

    changes: dict[str, str]
    pending: PendingAct | None = None


def blocked_error(blocked: Blocked) -> AppError:
    """A refusal that says why, what to do and until when."""
    until = f" (possible from {blocked.until:%Y-%m-%dT%H:%M:%SZ} on at the latest)" if blocked.until else ""
    force = "; --force asks for a second administrator" if blocked.unsafe else ""
    return AppError(ErrorCode.FAILED_PRECONDITION, f"{blocked.reason}{until}. What to do: {blocked.do}{force}")


def _decided(row: StoredAuthority) -> StoredAuthority:
    """A peer's root about which somebody decided here: it does not come back because the peer still gives it out."""
    return replace(row, automatic=False) if row.role == AuthorityRole.PEER else row


class ChangeAuthority:
    """Steps of authorities, asked for by administrators."""

    def __init__(self, authorities: Authorities, acts: PendingActs) -> None:
        self._authorities = authorities
        self._acts = acts

    async def step(self, actor: Actor, asked: StepAsked) -> StepDone:
        """Do a step if it is safe.

        Raises:
            AppError: `NOT_FOUND`; `FAILED_PRECONDITION` with reason, advice and time when it is not possible, or
                not safe and not forced; `CONFLICT` when somebody else changed authorities in between.
        """
        actor.require(Role.ADMIN)
        self._authorities.check_clock()
        known, fleet = await self._authorities.read_fleet()
        row = known.find(asked.authority_id)
        verdict = self._judge(asked.step, row.id, fleet)
        if isinstance(verdict, Blocked):
            if not (verdict.unsafe and asked.force):
                raise blocked_error(verdict)
            body = {
                "step": asked.step.value,
                "authority": row.id,
                "changes": {authority: state.value for authority, state in verdict.changes.items()},
                "blocked": verdict.reason,
                "reason": asked.reason,
                "epoch": known.epoch,
            }
            return StepDone(changes={}, pending=await self._acts.request(actor, FORCED_STEP, body))
        await self._authorities.commit(self._change(actor, asked, known, row.id, verdict))
        return StepDone(changes={authority: state.value for authority, state in verdict.changes.items()})

    async def approve(self, actor: Actor, act_id: str, sha256: str) -> StepDone:
        """Confirm a forced step that another administrator asked for, and do it.

        Raises:
            AppError: as `PendingActs.check`; `CONFLICT` when authorities changed since it was asked for;
                `FAILED_PRECONDITION` when it is not possible any more.
        """
        actor.require(Role.ADMIN)
        self._authorities.check_clock()
        known, fleet = await self._authorities.read_fleet()
        act, body = await self._acts.read(act_id, FORCED_STEP)
        if known.epoch != body["epoch"]:
            raise AppError(
                ErrorCode.CONFLICT, "the authorities were changed since this was asked for; reject it and ask again"
            )
        step, authority_id = Step(body["step"]), str(body["authority"])
        verdict = self._judge(step, authority_id, fleet)
        if isinstance(verdict, Blocked) and not verdict.unsafe:
            raise blocked_error(verdict)
        changes = {authority: state.value for authority, state in verdict.changes.items()}
        if changes != body["changes"]:
            raise AppError(ErrorCode.CONFLICT, "it would do something else by now; reject it and ask again")
        asked = StepAsked(step=step, authority_id=authority_id, reason=str(body["reason"]), force=True)
        change = self._change(actor, asked, known, authority_id, verdict, act=act)
        await self._acts.approve(actor, act.id, sha256, change)
        return StepDone(changes=changes)

    def _judge(self, step: Step, authority_id: str, fleet: Fleet) -> Verdict:
        return judge(step, authority_id, fleet, self._authorities.rules, self._authorities.clock.now())

    def _change(
        self,
        actor: Actor,
        asked: StepAsked,
        known: AuthoritySet,
        authority_id: str,
        verdict: Allowed | Blocked,
        act: PendingAct | None = None,
    ) -> AuthorityChange:
        now = self._authorities.clock.now()
        detail: dict[str, Any] = {"reason": asked.reason}
        if act is not None:
            detail |= {"forced": act.id, "actSha256": act.sha256, "requestedBy": f"admin:{act.requested_name}"}
        return AuthorityChange(
            transition=asked.step.value,
            actor=actor.label,
            subject=authority_id,
            request_id=actor.request_id,
            now=now,
            base=known.epoch,
            replaced=tuple(_decided(row) for row in with_states(known, verdict.changes, now)),
            detail=detail,
        )
