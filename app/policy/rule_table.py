"""The immutable rule table (skeleton)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from app.limits import PolicyLimits
from app.policy.compile import CompiledPolicy
from app.policy.mesh import MeshConfig


class RuleTable:
    """All compiled policies, by what they attach to."""

    @classmethod
    def empty(cls, mesh: MeshConfig, limits: PolicyLimits | None = None) -> RuleTable:
        """A table without policies."""
        raise NotImplementedError

    def replaced(self, upserts: Mapping[str, CompiledPolicy], removed: Iterable[str]) -> RuleTable:
        """The table after policies were put and removed by document key; costs the change, not the set."""
        raise NotImplementedError
