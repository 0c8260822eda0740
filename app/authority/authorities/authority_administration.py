"""What administrators can do about authorities, in one value for the adapters."""

from __future__ import annotations

from dataclasses import dataclass

from app.authority.actor import Actor
from app.authority.authorities.change_authority import FORCED_STEP, ChangeAuthority, StepDone
from app.authority.authorities.describe_authorities import DescribeAuthorities
from app.authority.authorities.export_root import ROOT_EXPORT, ExportRoot
from app.authority.authorities.pending_acts import PendingActs
from app.authority.authorities.prepare_authority import PrepareAuthority


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityAdministration:
    """The use cases of administrators."""

    change: ChangeAuthority
    prepare: PrepareAuthority
    describe: DescribeAuthorities
    acts: PendingActs
    export: ExportRoot

    async def approve(self, actor: Actor, act_id: str, sha256: str) -> StepDone:
        """Confirm an act of whatever kind.

        Raises:
            AppError: as `PendingActs.approve`, and what the kind of act adds.
        """
        confirm = {FORCED_STEP: self.change.approve, ROOT_EXPORT: self.export.approve}
        return await confirm[await self.acts.kind_of(actor, act_id)](actor, act_id, sha256)
