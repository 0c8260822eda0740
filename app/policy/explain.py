"""Explains one decision: the same walk as `evaluate`, with every rule considered and no index.

It reads the tests of the rules one after another, where `evaluate` has them sorted and indexed; that both come to
the same decision is a law of the property tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.policy.attached import Chain
from app.policy.authorization_policy import Action
from app.policy.compile import CompiledPolicy
from app.policy.considered import Failure, Verdict, consider
from app.policy.decision import Decision, Reason
from app.policy.evaluate import NO_ALLOW_POLICY, NO_RULE_MATCHED, is_conflict, prepare, refusal, required_providers
from app.policy.grant import GrantState
from app.policy.grant_index import ConsideredGrant, GrantsAt
from app.policy.hardened import Readings
from app.policy.mode import Mode
from app.policy.ownership import Effect
from app.policy.program import Outcome, Subject, too_ambiguous
from app.policy.request import Request
from app.policy.rule_table import RuleTable
from app.policy.rules import CompiledRule, Place, compile_rule
from app.policy.shadow import ShadowVerdict, decide_shadow
from app.policy.target import Target

_NO_ANSWERS: Mapping[str, bool] = {}
_FAR = 1_000  # misses of a rule that cannot match at all


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsideredRule:
    """One attached rule: whether it matched and, when not, what failed first and in how many places it failed."""

    policy: str  # <namespace>/<name>
    rule: str
    action: str
    enforced: (
        bool  # false for what is tried out, AUDIT, what Istio enforces, and the policy by which the request came to us
    )
    matched: bool
    mode: Mode = Mode.ENFORCE
    effect: Effect = Effect.ENFORCED
    failure: Failure | None = None
    misses: int = 0

    def to_json(self) -> dict[str, Any]:
        """The members as JSON."""
        members: dict[str, Any] = {
            "policy": self.policy,
            "rule": self.rule,
            "action": self.action,
            "enforced": self.enforced,
            "matched": self.matched,
        }
        if self.mode is not Mode.ENFORCE:
            members["mode"] = self.mode.value
        if self.effect is not Effect.ENFORCED:
            members["effect"] = self.effect.value
        return members | ({"failure": self.failure.to_json()} if self.failure is not None else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The decision, every rule considered, and the rule that came nearest to allowing what was denied.

    `shadow` is None where nothing is tried out. `asks` are the providers that a worker asks, each with its answer (True
    allows), None for those that were given none and count as denying.
    """

    decision: Decision
    rules: tuple[ConsideredRule, ...] = ()
    grants: tuple[ConsideredGrant, ...] = ()  # that attach to the target, also those that do not hold now
    nearest_miss: ConsideredRule | None = None
    path_readings: tuple[str, ...] = ()
    host_readings: tuple[str, ...] = ()
    shadow: ShadowVerdict | None = None
    asks: tuple[tuple[str, bool | None], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The explanation as JSON."""
        decision = self.decision
        members: dict[str, Any] = {
            "decision": {
                "allowed": decision.allowed,
                "reason": decision.reason.value,
                "policy": decision.policy,
                "rule": decision.rule,
                "hint": decision.hint,
            },
            "rules": [rule.to_json() for rule in self.rules],
            "nearestMiss": None if self.nearest_miss is None else self.nearest_miss.to_json(),
            "readings": {"path": list(self.path_readings), "host": list(self.host_readings)},
        }
        if self.asks:
            words = {True: "allow", False: "deny", None: None}
            members["asks"] = [{"provider": name, "answer": words[answer]} for name, answer in self.asks]
        if self.grants:
            members["grants"] = [one.to_json() for one in self.grants]
        return members if self.shadow is None else members | {"shadow": self.shadow.to_json()}


def explain(
    table: RuleTable,
    target: Target,
    request: Request,
    answers: Mapping[str, bool] = _NO_ANSWERS,
    *,
    grants: GrantsAt | None = None,
) -> Explanation:
    """The decision for a request and how it came about; equal to what `decide` and then the grants answer."""
    chain, subject = prepare(table, target, request)
    if isinstance(subject, Decision):
        shadow = decide_shadow(table, target, request, subject, answers, grants=grants)
        return Explanation(decision=subject, shadow=shadow)
    attached = table.attached(target)
    place = attached.place(request.protocol)
    walked = [
        _walk(policy, index, subject, place) for policy in attached.policies for index in range(len(policy.spec.rules))
    ]
    deciding = {policy.key for policy in chain.policies}
    enforced = [step for step in walked if step.policy.key in deciding]
    decision = _decision(table, chain, enforced, answers)
    considered = tuple(_considered(step, enforced=step in enforced) for step in walked)
    granted = () if grants is None else grants.considered(target, request)
    lifted = _lifted(decision, granted)
    return Explanation(
        decision=lifted,
        rules=considered,
        grants=granted,
        nearest_miss=_nearest_miss(lifted, considered),
        path_readings=_spellings(subject.paths),
        host_readings=_spellings(subject.hosts),
        shadow=decide_shadow(table, target, request, lifted, answers, grants=grants),
        asks=tuple((name, answers.get(name)) for name in required_providers(table, target, request)),
    )


def _lifted(decision: Decision, grants: tuple[ConsideredGrant, ...]) -> Decision:
    """The decision after the grants were asked: the first by name that may lift it does."""
    for one in grants:
        if one.matched and one.state is GrantState.HOLDS and one.grant.may_lift(decision):
            return one.grant.decision
    return decision


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """One rule on the walk; `rule` is None when it can never match at this place."""

    policy: CompiledPolicy
    index: int
    rule: CompiledRule | None
    verdict: Verdict


def _walk(policy: CompiledPolicy, index: int, subject: Subject, place: Place) -> _Step:
    rule = compile_rule(policy.spec.rules[index], index, policy.action, policy.context, place)
    if rule is None:
        failure = Failure(
            pointer=policy.spec.rules[index].pointer,
            field="",
            wanted=(),
            got=f"the rule asks for what is not known to {'ztunnel' if place is Place.ZTUNNEL else 'a TCP filter'}",
        )
        return _Step(policy, index, None, Verdict(Outcome.NO, failure, _FAR))
    return _Step(policy, index, rule, consider(rule, subject, wide=policy.action is not Action.ALLOW))


def _decision(table: RuleTable, chain: Chain, steps: list[_Step], answers: Mapping[str, bool]) -> Decision:
    matched: dict[Action, list[tuple[CompiledRule, Outcome]]] = {action: [] for action in Action}
    for step in steps:
        if step.rule is not None and step.verdict.outcome is not Outcome.NO:
            matched[step.policy.action].append((step.rule, step.verdict.outcome))
    for rule, outcome in matched[Action.DENY]:
        return rule.decision if outcome is Outcome.YES else too_ambiguous(rule)
    asked: dict[str, CompiledRule] = {}
    for rule, _ in matched[Action.CUSTOM]:
        asked.setdefault(chain.providers[rule.policy], rule)
    refused = refusal(asked, is_conflict(table, chain), answers)
    if refused is not None:
        return refused
    if not chain.allows:
        return NO_ALLOW_POLICY
    for rule, outcome in matched[Action.ALLOW]:
        if outcome is Outcome.YES:
            return rule.decision
    return NO_RULE_MATCHED


def _considered(step: _Step, *, enforced: bool) -> ConsideredRule:
    context = step.policy.context
    wide = step.policy.action is not Action.ALLOW
    outcome = step.verdict.outcome
    return ConsideredRule(
        policy=step.policy.name,
        rule=f"ns[{context.namespace}]-policy[{context.name}]-rule[{step.index}]",
        action=step.policy.action.value,
        enforced=enforced,
        matched=outcome is Outcome.YES or (wide and outcome is Outcome.AMBIGUOUS),
        mode=step.policy.mode,
        effect=step.policy.effect,
        failure=step.verdict.failure,
        misses=step.verdict.misses,
    )


def _nearest_miss(decision: Decision, considered: tuple[ConsideredRule, ...]) -> ConsideredRule | None:
    """The ALLOW rule that failed in the fewest places, where the lack of one is why the request was denied."""
    if decision.reason is not Reason.NO_RULE_MATCHED:
        return None
    missed = [rule for rule in considered if rule.enforced and rule.action == Action.ALLOW and not rule.matched]
    return min(missed, key=lambda rule: rule.misses, default=None)


def _spellings(readings: Readings) -> tuple[str, ...]:
    return tuple(dict.fromkeys(spelling for reading in readings for spelling in reading if spelling))
