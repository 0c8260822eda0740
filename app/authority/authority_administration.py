"""What administrators can do about authorities, in one value for the adapters."""

from __future__ import annotations

from dataclasses import dataclass

from app.authority.change_authority import ChangeAuthority
from app.authority.describe_authorities import DescribeAuthorities
from app.authority.pending_acts import PendingActs
from app.authority.prepare_authority import PrepareAuthority


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityAdministration:
    """The use cases of administrators."""

    change: ChangeAuthority
    prepare: PrepareAuthority
    describe: DescribeAuthorities
    acts: PendingActs
