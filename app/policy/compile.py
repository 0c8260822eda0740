"""From an AuthorizationPolicy document to rules that can be evaluated.

Each field of a rule becomes a `Test`: on which part of the request it looks, and a function that compares. A policy is
compiled for three places, because they differ: an HTTP filter chain, a TCP filter chain (HTTP fields are unknown: an
ALLOW rule that has one is dropped, in other rules the field is left out) and ztunnel (the same with another notion of
what is left when nothing is left). What could only be misunderstood is refused, never skipped, unless the caller asks
what Istio makes of it.
"""

from __future__ import annotations

from app.errors import AppError, ErrorCode
from app.limits import PolicyLimits
from app.policy.authorization_policy import PolicySpec, SpecReader
from app.policy.document import AUTHORIZATION_POLICY, Document
from app.policy.field_tests import PolicyContext, content_problems
from app.policy.mesh import MeshConfig
from app.policy.mode import Mode, mode_of
from app.policy.ownership import Effect, effect_of, is_confirmed
from app.policy.project_losses import losses
from app.policy.rules import CompiledRule, Place, compile_rule


class CompiledPolicy:
    """One policy, ready to be taken into a rule table. Rules are compiled for a place when it is first asked for.

    `in_force_natively` says that a native copy decides as this policy does and is confirmed to be in force.
    """

    __slots__ = ("_rules", "action", "context", "effect", "in_force_natively", "key", "mode", "name", "spec")

    def __init__(
        self,
        key: str,
        context: PolicyContext,
        spec: PolicySpec,
        mode: Mode = Mode.ENFORCE,
        *,
        effect: Effect = Effect.ENFORCED,
        in_force_natively: bool = False,
    ) -> None:
        self.key = key
        self.name = f"{context.namespace}/{context.name}"
        self.spec = spec
        self.action = spec.action
        self.context = context
        self.mode = mode
        self.effect = effect
        self.in_force_natively = in_force_natively
        self._rules: dict[Place, tuple[CompiledRule, ...]] = {}

    @property
    def namespace(self) -> str:
        """The policy's namespace."""
        return self.context.namespace

    def rules(self, place: Place) -> tuple[CompiledRule, ...]:
        """The rules that can match at this place, in their order."""
        try:
            return self._rules[place]
        except KeyError:
            compiled = (
                compile_rule(rule, index, self.action, self.context, place)
                for index, rule in enumerate(self.spec.rules)
            )
            rules = self._rules[place] = tuple(rule for rule in compiled if rule is not None)
            return rules


def compile_policy(
    document: Document, mesh: MeshConfig, limits: PolicyLimits | None = None, *, unchecked: bool = False
) -> CompiledPolicy:
    """Compile an AuthorizationPolicy document.

    `unchecked` takes a policy that a cluster may hold although Istio's validation refuses it, and gives it the meaning
    that istiod does: a rule with a key that is not known is passed over; one with a value or a bracket that means
    nothing is passed over in an ALLOW policy, and has it left out in others, which then match more.

    Raises:
        AppError: `INVALID`, with a field error for everything that has no meaning: a field that is not known or of the
            wrong type, and unless `unchecked` a block that is no address, a key of a condition that is not known.
    """
    if document.kind != AUTHORIZATION_POLICY:
        raise AppError(ErrorCode.INVALID, f"a {document.kind} document has no rules")
    reader = SpecReader(limits or PolicyLimits())
    spec = reader.read(document.spec)
    errors = reader.errors or ([] if unchecked else content_problems(spec))
    if errors:
        raise AppError(ErrorCode.INVALID, "the AuthorizationPolicy document is not valid", errors=tuple(errors))
    context = PolicyContext(document.namespace, document.name, mesh, unchecked)
    mode, effect = mode_of(document.annotations, spec.action), effect_of(document.annotations)
    in_force = effect is Effect.PROJECTED and is_confirmed(document) and not losses(spec, mesh, mode)
    policy = CompiledPolicy(document.key, context, spec, mode, effect=effect, in_force_natively=in_force)
    policy.rules(Place.HTTP)
    return policy
