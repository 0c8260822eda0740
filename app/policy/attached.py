"""The policies of one target, sorted by action and by who the peer is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from app.policy.authorization_policy import Action
from app.policy.compile import CompiledPolicy
from app.policy.mesh import MeshConfig
from app.policy.mode import ENFORCED, PROPOSED, TRIED
from app.policy.ownership import Effect
from app.policy.program import EMPTY, Program, Residual, for_peer
from app.policy.rules import CompiledRule, Place
from app.policy.target import PointKind

_MAX_PEERS = 1_024  # remembered for each target; when there are more, the memory starts anew

Ranked = tuple[int, CompiledRule]


class Phase:
    """The rules of one action: those that ask nothing about the peer, and the others by the peers they name."""

    __slots__ = ("_by_identity", "_unindexed", "common")

    def __init__(self, rules: Iterable[Ranked]) -> None:
        common: list[Residual] = []
        by_identity: dict[str, list[Ranked]] = {}
        unindexed: list[Ranked] = []
        for rank, rule in rules:
            if not rule.uses_identity:
                residual = for_peer(rank, rule, "")
                if residual is not None:
                    common.append(residual)
            elif rule.identity_keys is None:
                unindexed.append((rank, rule))
            else:
                for key in rule.identity_keys:
                    by_identity.setdefault(key, []).append((rank, rule))
        self.common = Program(common)
        self._by_identity = by_identity
        self._unindexed = unindexed

    @property
    def is_empty(self) -> bool:
        """Whether there are no rules at all."""
        return not (self.common.rules or self._by_identity or self._unindexed)

    def for_peer(self, principal: str) -> Program:
        """The rules beside the common ones that can match this peer."""
        ranked = dict(self._unindexed)
        if self._by_identity:
            for key in identity_keys(principal):
                ranked.update(self._by_identity.get(key, ()))
        residuals = (for_peer(rank, rule, principal) for rank, rule in sorted(ranked.items(), key=lambda item: item[0]))
        program = [residual for residual in residuals if residual is not None]
        return Program(program) if program else EMPTY


def identity_keys(principal: str) -> Iterator[str]:
    """The keys under which rules that name this peer, or a namespace it is in, are kept."""
    if not principal:
        return
    yield principal
    at = principal.find("/ns/")
    while at >= 0:
        end = principal.find("/", at + 4)
        if end < 0:
            return
        yield principal[at : end + 1]
        at = principal.find("/ns/", at + 1)


class View:
    """What one peer meets at a target: for each action the common rules and its own."""

    __slots__ = ("allow", "custom", "deny", "uses_hosts")

    def __init__(self, chain: Chain, principal: str) -> None:
        self.deny = _programs(chain.deny, principal)
        self.allow = _programs(chain.allow, principal)
        self.custom = _programs(chain.custom, principal)
        self.uses_hosts = any(program.uses_hosts for program in (*self.deny, *self.allow, *self.custom))


def _programs(phase: Phase, principal: str) -> tuple[Program, ...]:
    return tuple(program for program in (phase.common, phase.for_peer(principal)) if program.rules)


class Chain:
    """The rules at one place: the enforced ones, or those of the `proposed` set.

    `allows` says that ALLOW policies exist, even when no rule of them is left.
    """

    __slots__ = ("_views", "allow", "allows", "custom", "deny", "policies", "providers")

    def __init__(
        self, policies: tuple[CompiledPolicy, ...], place: Place, mesh: MeshConfig, *, proposed: bool = False
    ) -> None:
        # ztunnel gets neither CUSTOM nor AUDIT policies.
        relevant = policies if place is not Place.ZTUNNEL else _native(policies)
        self.policies = evaluated(relevant, mesh, proposed=proposed)
        ranked: dict[Action, list[Ranked]] = {action: [] for action in Action}
        rank = 0
        for policy in self.policies:
            for rule in policy.rules(place):
                ranked[policy.action].append((rank, rule))
                rank += 1
        self.deny = Phase(ranked[Action.DENY])
        self.allow = Phase(ranked[Action.ALLOW])
        self.custom = Phase(ranked[Action.CUSTOM])
        self.allows = any(policy.action is Action.ALLOW for policy in self.policies)
        self.providers = {
            policy.name: policy.spec.provider or "" for policy in self.policies if policy.action is Action.CUSTOM
        }
        self._views: dict[str, View] = {}

    def view(self, principal: str) -> View:
        """What this peer meets, remembered."""
        try:
            return self._views[principal]
        except KeyError:
            view = View(self, principal)
            if len(self._views) >= _MAX_PEERS:
                self._views.clear()
            self._views[principal] = view
            return view


def _native(policies: tuple[CompiledPolicy, ...]) -> tuple[CompiledPolicy, ...]:
    return tuple(policy for policy in policies if policy.action in (Action.ALLOW, Action.DENY))


def evaluated(
    policies: tuple[CompiledPolicy, ...], mesh: MeshConfig, *, proposed: bool = False
) -> tuple[CompiledPolicy, ...]:
    """Those of a target's policies that decide here, in the enforced or in the proposed set.

    A DENY that is in force natively is left to Istio. ALLOW policies are alternatives, so they leave together or
    not at all: one that left alone would keep out what only another of them speaks of.
    """
    here = tuple(policy for policy in policies if is_evaluated(policy, mesh, proposed=proposed))
    if not any(policy.in_force_natively for policy in here):
        return here
    allows_stay = any(
        policy.action is Action.ALLOW and not policy.in_force_natively
        for policy in policies
        if policy.effect is Effect.OBSERVED or is_evaluated(policy, mesh, proposed=proposed)
    )
    return tuple(
        policy for policy in here if not policy.in_force_natively or (policy.action is Action.ALLOW and allows_stay)
    )


def is_evaluated(policy: CompiledPolicy, mesh: MeshConfig, *, proposed: bool = False) -> bool:
    """Whether a policy by itself takes part in the enforced, or in the proposed set.

    What is AUDIT never does, nor what Istio enforces (observed), nor the policy by which the request came to us.
    """
    return policy.mode in (PROPOSED if proposed else ENFORCED) and _can_decide(policy, mesh)


def _can_decide(policy: CompiledPolicy, mesh: MeshConfig) -> bool:
    if policy.effect is Effect.OBSERVED:
        return False
    if policy.action is Action.CUSTOM:
        return policy.spec.provider not in mesh.own_providers
    return policy.action is not Action.AUDIT


class Attached:
    """All policies that concern a target, and the chains made of them.

    `tries` says that some are tried out, so that the proposed set may come to another decision than the enforced one.
    """

    __slots__ = ("_chains", "_kind", "_mesh", "_proposed", "keys", "policies", "tries")

    def __init__(
        self, keys: tuple[str, ...], policies: tuple[CompiledPolicy, ...], kind: PointKind, mesh: MeshConfig
    ) -> None:
        self.keys = keys
        self.policies = policies
        self._kind = kind
        self._mesh = mesh
        self._chains: dict[str, Chain] = {}
        self._proposed: dict[str, Chain] = {}
        self.tries = any(policy.mode in TRIED and _can_decide(policy, mesh) for policy in policies)

    def place(self, protocol: str) -> Place:
        """Where requests of this protocol are evaluated."""
        if self._kind is PointKind.ZTUNNEL:
            return Place.ZTUNNEL
        return Place.TCP if protocol == "tcp" else Place.HTTP

    def chain(self, protocol: str, *, proposed: bool = False) -> Chain:
        """The rules for requests of this protocol. Those of the proposed set are made when they are first asked for."""
        key = "tcp" if protocol == "tcp" else "http"
        chains = self._proposed if proposed else self._chains
        try:
            return chains[key]
        except KeyError:
            chain = chains[key] = Chain(self.policies, self.place(key), self._mesh, proposed=proposed)
            return chain
