"""The grants of a set, found by where they attach and by whom they name, so that unrelated ones cost nothing.

They are kept in a rule table of their own: what a grant allows is compiled, attached and matched as an ALLOW rule is,
in every reading of a request. A request that is allowed anyway is never asked about here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from app.limits import PolicyLimits
from app.policy.compile import CompiledPolicy
from app.policy.considered import Failure, consider
from app.policy.decision import Decision
from app.policy.evaluate import prepare
from app.policy.field_tests import PolicyContext
from app.policy.grant import LIFTABLE, Grant, GrantState, moment_text
from app.policy.mesh import MeshConfig
from app.policy.program import Outcome
from app.policy.request import Request
from app.policy.rule_table import RuleTable
from app.policy.target import Target


class GrantIndex:
    """All grants of a set. Immutable; the next index costs what changed."""

    __slots__ = ("_by_name", "_table", "_values")

    def __init__(self, values: Mapping[str, Grant], table: RuleTable) -> None:
        self._values = values
        self._table = table
        self._by_name = {grant.full_name: grant for grant in values.values()}

    @classmethod
    def empty(cls, mesh: MeshConfig, limits: PolicyLimits | None = None) -> Self:
        """No grants."""
        return cls({}, RuleTable.empty(mesh, limits))

    def replaced(self, values: Mapping[str, Grant], mesh: MeshConfig) -> GrantIndex:
        """The index of these grants by document key; what is the same object as before is not looked at again."""
        if values is self._values and mesh == self._table.mesh:
            return self
        before, table = self._values, self._table
        if mesh != table.mesh:  # whom a name means depends on the mesh
            before, table = {}, RuleTable.empty(mesh, table.limits)
        changed = {
            key: CompiledPolicy(key, PolicyContext(grant.namespace, grant.name, mesh), grant.spec)
            for key, grant in values.items()
            if before.get(key) is not grant
        }
        return GrantIndex(values, table.replaced(changed, [key for key in before if key not in values]))

    def __len__(self) -> int:
        return len(self._values)

    def at(self, now: datetime) -> GrantsAt:
        """The grants as they stand at a moment."""
        return GrantsAt(self, now)

    def get(self, full_name: str) -> Grant:
        """The grant that is named `<namespace>/<name>`."""
        return self._by_name[full_name]

    @property
    def table(self) -> RuleTable:
        """What the grants allow, as ALLOW policies of the same names."""
        return self._table


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsideredGrant:
    """One grant that attaches to the target: how it stands, whether it matches, and when not, what failed first."""

    grant: Grant
    state: GrantState
    matched: bool  # the request is one that it allows while it holds
    failure: Failure | None

    def to_json(self) -> dict[str, Any]:
        """The members as JSON."""
        members: dict[str, Any] = {
            "grant": self.grant.full_name,
            "state": self.state.value,
            "notBefore": moment_text(self.grant.not_before),
            "expiresAt": moment_text(self.grant.expires_at),
            "breakGlass": self.grant.break_glass,
            "overridesDeny": self.grant.overrides_deny,
            "matched": self.matched,
        }
        return members | ({"failure": self.failure.to_json()} if self.failure is not None else {})


@dataclass(frozen=True, slots=True)
class GrantsAt:
    """The grants at one moment."""

    index: GrantIndex
    now: datetime

    def lift(self, target: Target, request: Request, decision: Decision) -> Decision:
        """The decision, or what the first grant by name answers that holds, matches, and may lift it."""
        if decision.allowed or decision.reason not in LIFTABLE:
            return decision
        found = self._find(target, request, decision)
        return decision if found is None else found.decision

    def _find(self, target: Target, request: Request, decision: Decision) -> Grant | None:
        table = self.index.table
        if not table.attached(target).policies:
            return None
        chain, subject = prepare(table, target, request)
        if isinstance(subject, Decision):  # malformed, or too ambiguous for the hosts that grants name
            return None
        best: tuple[int, Grant] | None = None
        for program in chain.view(request.principal).allow:
            for residual in program.matches(subject, wide=False):
                grant = self.index.get(residual.rule.policy)
                if (
                    grant.state(self.now) is GrantState.HOLDS
                    and grant.may_lift(decision)
                    and (best is None or residual.rank < best[0])
                ):
                    best = residual.rank, grant
        return None if best is None else best[1]

    def considered(self, target: Target, request: Request) -> tuple[ConsideredGrant, ...]:
        """Every grant that attaches to the target, by name, looked at without an index."""
        table = self.index.table
        chain, subject = prepare(table, target, request)
        if isinstance(subject, Decision):
            return ()
        place = table.attached(target).place(request.protocol)
        found = []
        for policy in chain.policies:
            grant = self.index.get(policy.name)
            verdicts = [consider(rule, subject, wide=False) for rule in policy.rules(place)]
            found.append(
                ConsideredGrant(
                    grant=grant,
                    state=grant.state(self.now),
                    matched=any(verdict.outcome is Outcome.YES for verdict in verdicts),
                    failure=next((verdict.failure for verdict in verdicts), None),
                )
            )
        return tuple(found)
