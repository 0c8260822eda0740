"""A Check that its policies decide: at once, or after providers were asked, on the same state both times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from app.decision.ask_providers import Needed, without_context
from app.decision.attributes import CheckAnswer, CheckAttributes
from app.decision.authenticate_request import Authenticated
from app.decision.lift_by_grants import GrantDesk
from app.decision.ports import ProviderAnswer
from app.decision.state import DecisionState
from app.policy.combine_effects import combine_effects
from app.policy.decision import Decision, Reason
from app.policy.document import PROVIDER
from app.policy.effects import NO_EFFECTS, Effects
from app.policy.evaluate import decide, required_providers
from app.policy.provider import provider_key
from app.policy.request import Request
from app.policy.shadow import decide_shadow
from app.policy.target import Target

_NO_ANSWERS: Mapping[str, bool] = {}
_MAX_HINT_CHARS = 256  # of a provider
_CONTRADICTION = Decision(
    False,
    Reason.PROVIDER_DENIED,
    hint="the providers allow, and want different values for the same header, query parameter or metadata",
)


@dataclass(frozen=True, slots=True)
class OpenCheck:
    """Everything that a decision will be made from, but the answers of the providers that it hangs on."""

    state: DecisionState
    target: Target
    request: Request
    identity: str  # how the sender was known
    user: Authenticated
    needed: Needed
    grants: GrantDesk

    def settle(self, answers: Mapping[str, ProviderAnswer]) -> CheckAnswer:
        """The answer, given what the providers said; without an answer a provider has denied.

        A denial by providers has the effects of the first of them by name; who passes where all allow has all of
        theirs, also by a grant in place of an ALLOW rule, because the service goes by the headers that they set. Who
        passes by a grant although a provider denied has none of them.
        """
        allowed = {name: answer.allowed is True for name, answer in answers.items()}
        decision = decide(self.state.table, self.target, self.request, allowed)
        denied_with = NO_EFFECTS
        passes_with: Effects | None = NO_EFFECTS
        if decision.reason is Reason.PROVIDER_DENIED:
            denied = next((name for name in sorted(answers) if not allowed[name]), None)
            if denied is not None:
                denied_with = answers[denied].effects
                hint = answers[denied].hint[:_MAX_HINT_CHARS]
                decision = replace(decision, hint=f"{decision.hint}: {hint}") if hint else decision
        elif decision.allowed or decision.reason is Reason.NO_RULE_MATCHED:
            passes_with = combine_effects(answers[name].effects for name in sorted(answers))
            if passes_with is None:
                decision = _CONTRADICTION
        answer = _decided(self.state, self.target, self.request, self.identity, decision, allowed, self.grants)
        effects = passes_with if answer.decision.allowed else denied_with
        if effects is not None and effects is not NO_EFFECTS:
            answer = replace(answer, effects=effects)
        return self.user.seen_by_upstream(answer)

    def answer(self, decision: Decision) -> CheckAnswer:
        """The answer with a decision that no policy made."""
        return CheckAnswer(decision, self.state.number, self.state.revision, self.identity)


def decide_by_policies(
    state: DecisionState,
    target: Target,
    request: Request,
    identity: str,
    user: Authenticated,
    attributes: CheckAttributes,
    *,
    is_known: bool,
    grants: GrantDesk,
) -> CheckAnswer | OpenCheck:
    """What the policies and grants of the target decide, or what is open until providers are asked.

    What the proxy says of route and filters is handed to providers only when it `is_known`: registered.
    """
    decision = decide(state.table, target, request)
    if decision.reason is Reason.PROVIDER_DENIED:  # by one that nobody asked yet, or for good
        names = required_providers(state.table, target, request)
        if names:
            known = state.values.of(PROVIDER)
            providers = {name: known.get(provider_key(name)) for name in names}
            shown = attributes if is_known else without_context(attributes)
            needed = Needed(providers, shown, request.principal, request.claims, state.number)
            return OpenCheck(state, target, request, identity, user, needed, grants)
    return user.seen_by_upstream(_decided(state, target, request, identity, decision, _NO_ANSWERS, grants))


def _decided(
    state: DecisionState,
    target: Target,
    request: Request,
    identity: str,
    decision: Decision,
    answers: Mapping[str, bool],
    desk: GrantDesk,
) -> CheckAnswer:
    """The answer after grants were asked, with what the whole set would decide where policies are tried out."""
    grants = None
    if state.grants is not None and (not decision.allowed or state.table.tried):
        grants = desk.now(state.grants)
        decision = desk.lift(grants, target, request, decision)
    shadow = None
    if state.table.tried:
        shadow = decide_shadow(state.table, target, request, decision, answers, grants=grants)
    return CheckAnswer(decision, state.number, state.revision, identity, shadow=shadow)
