"""All compiled policies of a revision, immutable, with what was found out about targets remembered.

`replaced` makes the next table at the cost of what changed: maps share what did not, and the memory of every target
that the change does not concern is carried over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from app.limits import PolicyLimits
from app.policy.attached import Attached
from app.policy.attachment import policy_keys, selects, target_keys
from app.policy.buckets import Buckets
from app.policy.compile import CompiledPolicy
from app.policy.mesh import MeshConfig
from app.policy.mode import TRIED
from app.policy.target import Target

_MAX_TARGETS = 4_096  # remembered; when there are more, the memory starts anew

_DEFAULT_LIMITS = PolicyLimits()
_Policies = Buckets[CompiledPolicy]
_ByKey = Buckets[Mapping[str, CompiledPolicy]]


class RuleTable:
    """Policies by document key and by attach key. Readers hold one reference for a whole request."""

    __slots__ = ("_by_attach_key", "_label_namespaces", "_policies", "_targets", "limits", "mesh", "tried")

    def __init__(
        self,
        mesh: MeshConfig,
        limits: PolicyLimits,
        policies: _Policies,
        by_attach_key: _ByKey,
        targets: dict[Target, Attached],
        tried: int = 0,
    ) -> None:
        self.mesh = mesh
        self.limits = limits
        self._policies = policies
        self._by_attach_key = by_attach_key
        self._targets = targets
        self._label_namespaces: frozenset[str] | None = None
        self.tried = tried  # how many policies are tried out: where it is zero, no shadow verdict need be asked for

    @classmethod
    def empty(cls, mesh: MeshConfig, limits: PolicyLimits | None = None) -> RuleTable:
        """A table without policies."""
        return cls(mesh, limits or _DEFAULT_LIMITS, Buckets.empty(), Buckets.empty(), {})

    def __len__(self) -> int:
        return len(self._policies)

    def policies(self) -> Iterator[CompiledPolicy]:
        """Every policy, in no particular order."""
        return (policy for _, policy in self._policies.items())

    def replaced(self, upserts: Mapping[str, CompiledPolicy], removed: Iterable[str]) -> RuleTable:
        """The table after policies were put and removed by document key; this one stays as it is.

        The policies must have been compiled for the table's mesh.
        """
        policies = self._policies.edit()
        tried = self.tried
        # Attach key → its policies after the change; copied once each.
        touched: dict[str, dict[str, CompiledPolicy]] = {}

        def found_by(attach_key: str) -> dict[str, CompiledPolicy]:
            if attach_key not in touched:
                touched[attach_key] = dict(self._by_attach_key.get(attach_key) or {})
            return touched[attach_key]

        for key in (*removed, *upserts):
            old = policies.get(key)
            if old is not None:
                policies.remove(key)
                tried -= old.mode in TRIED
                for attach_key in policy_keys(old.namespace, old.spec):
                    found_by(attach_key).pop(key, None)
        for key, policy in upserts.items():
            policies.put(key, policy)
            tried += policy.mode in TRIED
            for attach_key in policy_keys(policy.namespace, policy.spec):
                found_by(attach_key)[key] = policy

        by_attach_key = self._by_attach_key.edit()
        for attach_key, members in touched.items():
            if members:
                by_attach_key.put(attach_key, members)
            else:
                by_attach_key.remove(attach_key)
        targets = {
            target: attached
            for target, attached in list(self._targets.items())  # at once: another thread may ask about a target
            if not any(key in touched for key in attached.keys)
        }
        return RuleTable(self.mesh, self.limits, policies.done(), by_attach_key.done(), targets, tried)

    def attached(self, target: Target) -> Attached:
        """The policies that concern a target, ready to be walked."""
        try:
            return self._targets[target]
        except KeyError:
            attached = self._find(target)
            if len(self._targets) >= _MAX_TARGETS:
                self._targets.clear()
            self._targets[target] = attached
            return attached

    def needs_labels(self, namespace: str) -> bool:
        """Whether policies for workloads of this namespace attach by label: without labels nobody knows which."""
        if self._label_namespaces is None:  # found out once, by who asks
            found = (key.split("/", 2) for key, _ in self._by_attach_key.items())
            self._label_namespaces = frozenset(parts[1] for parts in found if parts[0] == "label")
        return namespace in self._label_namespaces or self.mesh.root_namespace in self._label_namespaces

    def _find(self, target: Target) -> Attached:
        keys = target_keys(target, self.mesh)
        labels = target.label_map
        found: dict[str, CompiledPolicy] = {}
        for key in keys:
            members = self._by_attach_key.get(key) or {}
            found.update((item, policy) for item, policy in members.items() if selects(policy.spec, labels))
        policies = sorted(found.values(), key=lambda policy: policy.name)
        return Attached(keys, tuple(policies), target.kind, self.mesh)
