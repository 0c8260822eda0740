"""Who can send a request, what somebody can reach, and what differs between two sets: over all requests at once.

Answers are complete over plain requests: those that have one reading (and, of the spellings that policies write out
themselves, the ones with several). A request with other ambiguous spellings is in no class; under hardened matching it
is allowed only where every plain reading of it is. Every class comes with one request of it, which has been decided by
the very function that decides for waypoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.errors import AppError, ErrorCode
from app.policy.asked_user import Believed, as_seen
from app.policy.atom_patterns import HOST, METHOD, PATH, Part
from app.policy.decision import Decision, Reason
from app.policy.demands import Demands
from app.policy.divide import Leaf, RequestClass
from app.policy.document import GRANT, PROVIDER
from app.policy.paths import normalize
from app.policy.places import Place
from app.policy.policy_view import PolicyView
from app.policy.provider import provider_key
from app.policy.request import Request, Unavailable
from app.policy.request_space import RequestSpace, whose_tokens
from app.policy.target import Target
from app.policy.walk_state import Outcome

SCOPE = (
    "requests with one reading, and spellings that policies write out; "
    "other ambiguous spellings are only ever denied more"
)


def reach(view: PolicyView, places: Iterable[Place], given: Mapping[Part, Any], now: datetime) -> dict[str, Any]:
    """For each place every class of requests with the given values: allowed, denied, or when providers allow.

    Raises:
        AppError: `TOO_LARGE` over a limit; `INVALID` for what cannot be divided, or a given value that is refused
            before any policy is asked.
    """
    answers = []
    for place in places:
        space = _space([view], place, given, now)
        (worker,) = _workers([view], place, space, now)
        classes = [_reached(worker, space, one) for one in space.classes(_every, ranked=True)]
        classes.sort(key=_order)
        note = {"claims": space.note_on_claims} if space.note_on_claims else {}
        answers.append({**place.to_json(), **note, "classes": classes})
        _bound(view, answers)
    return {"scope": SCOPE, "places": answers}


def difference(
    views: tuple[PolicyView, PolicyView],
    places: Iterable[Place],
    given: Mapping[Part, Any],
    now: datetime,
    *,
    reasons: bool = False,
) -> dict[str, Any]:
    """Every class of requests that two sets decide otherwise, or with `reasons` by another rule.

    Raises:
        AppError: as `reach` does.
    """
    differences: list[dict[str, Any]] = []
    looked_at, note = 0, ""
    for place in places:
        looked_at += 1
        if (
            _same_demands(place)
            and _same_issuers(views, place)
            and _same_policies(views, place.target)
            and _same_exceptions(views, now)
        ):
            continue
        space = _space(views, place, given, now)
        wanted = _named_otherwise(views, space) if reasons else _decided_otherwise(views)
        workers = _workers(views, place, space, now)
        differences.extend(
            {**place.to_json(), **_differing(workers, space, one)} for one in space.classes(wanted, ranked=reasons)
        )
        note = note or space.note_on_claims
        if len(differences) > views[0].table.limits.max_question_classes:
            raise _too_many_classes(views[0])
    answer = {"scope": SCOPE, "targets": looked_at, "differences": differences}
    return answer | ({"claims": note} if note else {})


def _order(one: Mapping[str, Any]) -> tuple[int, bool]:
    """What is allowed first, and whom nobody can tell last."""
    return _VERDICTS.index(one["verdict"]), one["reason"] == Reason.IDENTITY_UNAVAILABLE


_VERDICTS = ("allow", "conditional", "deny")


def _space(views: Sequence[PolicyView], place: Place, given: Mapping[Part, Any], now: datetime) -> RequestSpace:
    return RequestSpace(
        views, place.target, place.protocol, given=_given(place, given), now=now, demands=place.door.demands
    )


def _every(_: Leaf) -> bool:
    return True


def _decided_otherwise(views: tuple[PolicyView, PolicyView]) -> Callable[[Leaf], bool]:
    def wanted(leaf: Leaf) -> bool:
        before, after = map(_as_asked, views, leaf)
        return before.allowed is not after.allowed or before.providers != after.providers

    return wanted


def _named_otherwise(views: tuple[PolicyView, PolicyView], space: RequestSpace) -> Callable[[Leaf], bool]:
    decided_otherwise = _decided_otherwise(views)

    def wanted(leaf: Leaf) -> bool:
        return decided_otherwise(leaf) or _by(space, 0, leaf[0]) != _by(space, 1, leaf[1])

    return wanted


def _as_asked(view: PolicyView, outcome: Outcome) -> Outcome:
    """The outcome; a denial where a provider is to be asked that no document describes, for it gives no answer."""
    known = view.values.of(PROVIDER)
    if all(provider_key(name) in known for name in outcome.providers):
        return outcome
    return outcome._replace(allowed=False, reason=Reason.PROVIDER_DENIED, providers=())


def _by(space: RequestSpace, side: int, outcome: Outcome) -> tuple[str, tuple[str, str]]:
    return outcome.reason.value, space.rule(side, outcome.rank)


def _given(place: Place, given: Mapping[Part, Any]) -> dict[Part, Any]:
    """What is given, without what a TCP connection does not know."""
    if place.protocol != "tcp":
        return dict(given)
    return {part: value for part, value in given.items() if part not in (METHOD, PATH, HOST) and part.kind != "header"}


def _reached(worker: _Worker, space: RequestSpace, one: RequestClass) -> dict[str, Any]:
    outcome = _as_asked(worker.view, one.outcomes[0])
    request = space.witness(one)
    decision = worker.decide(request, outcome, dict.fromkeys(outcome.providers, True))
    return {
        "verdict": _verdict(outcome),
        **_side(outcome, decision),
        **_conditions(space, one),
        "witness": request_to_json(request, worker.view),
    }


def _differing(workers: Sequence[_Worker], space: RequestSpace, one: RequestClass) -> dict[str, Any]:
    request = space.witness(one)
    outcomes = [_as_asked(worker.view, outcome) for worker, outcome in zip(workers, one.outcomes, strict=True)]
    answers = _telling_answers(*outcomes)
    before, after = (
        {"verdict": _verdict(outcome), **_side(outcome, worker.decide(request, outcome, answers))}
        for worker, outcome in zip(workers, outcomes, strict=True)
    )
    witness = request_to_json(request, workers[1].view)
    if answers:
        witness["provider_decisions"] = {name: "allow" if yes else "deny" for name, yes in answers.items()}
    return {
        "change": f"{before['verdict']}->{after['verdict']}",
        "before": before,
        "after": after,
        **_conditions(space, one),
        "witness": witness,
    }


def _conditions(space: RequestSpace, one: RequestClass) -> dict[str, Any]:
    found = space.describe(one)
    return {
        "when": {name: values.to_json() for name, values in found.items()},
        "words": {name: values.text for name, values in found.items()},
    }


@dataclass(frozen=True, slots=True)
class _Worker:
    """One side of a place: what a decision worker with this set answers there."""

    view: PolicyView
    demands: Demands
    believed: Believed | None
    target: Target
    now: datetime

    def decide(self, request: Request, outcome: Outcome, answers: Mapping[str, bool]) -> Decision:
        """What the request of a class is really answered; compared, so that a class never says something else."""
        expected = outcome.allowed and all(answers[name] for name in outcome.providers)
        decision = self._before_policies(request) or self._by_policies(request, answers)
        if decision.allowed is not expected:
            raise AppError(
                ErrorCode.INTERNAL,
                f"the class of {request.method} {request.path} of {request.principal or 'nobody'} was divided "
                "wrongly; this is a fault of the program: ask `policy explain` about single requests",
            )
        return decision

    def _before_policies(self, request: Request) -> Decision | None:
        quarantines = self.view.quarantines
        quarantine = quarantines.of_identity(request.principal, self.now) if len(quarantines) else None
        if quarantine is not None:
            return quarantine.decision
        return self.demands.refusal(self.target, request.principal) or as_seen(request, self.believed)[1]

    def _by_policies(self, request: Request, answers: Mapping[str, bool]) -> Decision:
        request, _ = as_seen(request, self.believed)
        known = self.view.values.of(PROVIDER)
        # Who is denied whatever providers say is not told that one of them gave no answer.
        asked = self.view.chain(self.target, request.protocol).providers.values()
        given = {name: answers.get(name, True) for name in asked if provider_key(name) in known}
        decision = self.view.decide(self.target, request, given)
        return self.view.grants.at(self.now).lift(self.target, request, decision)


def _workers(views: Sequence[PolicyView], place: Place, space: RequestSpace, now: datetime) -> list[_Worker]:
    return [
        _Worker(view, demands, space.believed(side), place.target, now)
        for side, (view, demands) in enumerate(zip(views, place.door.demands, strict=True))
    ]


def _telling_answers(before: Outcome, after: Outcome) -> dict[str, bool]:
    """Answers of providers under which the two outcomes differ."""
    answers = dict.fromkeys((*before.providers, *after.providers), True)
    if before.allowed and after.allowed:
        # What only one of them asks is what makes the difference.
        answers.update(dict.fromkeys(sorted(set(before.providers) ^ set(after.providers))[:1], False))
    return answers


def _side(outcome: Outcome, decision: Decision) -> dict[str, Any]:
    return {
        "reason": decision.reason.value,
        "policy": decision.policy,
        "rule": decision.rule,
        "providers": list(outcome.providers),
    }


def _verdict(outcome: Outcome) -> str:
    return "deny" if not outcome.allowed else "conditional" if outcome.providers else "allow"


def _same_demands(place: Place) -> bool:
    return len(set(place.door.demands)) == 1


def _same_issuers(views: tuple[PolicyView, PolicyView], place: Place) -> bool:
    before, after = whose_tokens(views, place.target, place.protocol)
    return before == after


def _same_policies(views: tuple[PolicyView, PolicyView], target: Target) -> bool:
    """Whether the very same documents concern the target in both sets, and mean the same in them."""
    if views[0].mesh != views[1].mesh:
        return False
    if views[0].is_proposed is not views[1].is_proposed and views[1].table.attached(target).tries:
        return False
    before, after = (
        {policy.key: view.documents[policy.key].content_hash for policy in view.table.attached(target).policies}
        for view in views
    )
    return before == after


def _same_exceptions(views: Sequence[PolicyView], now: datetime) -> bool:
    """Whether the same quarantines hold, and the grants are the same."""
    before, after = (
        {(one.identity, one.account) for one in view.quarantines.all() if one.holds(now)} for view in views
    )
    return before == after and views[0].values.of(GRANT) == views[1].values.of(GRANT)


def _bound(view: PolicyView, answers: Sequence[Mapping[str, Any]]) -> None:
    if sum(len(answer["classes"]) for answer in answers) > view.table.limits.max_question_classes:
        raise _too_many_classes(view)


def _too_many_classes(view: PolicyView) -> AppError:
    return AppError(
        ErrorCode.TOO_LARGE,
        f"the answer has more than {view.table.limits.max_question_classes} classes (policy.max_question_classes); "
        "narrow the question, such as by --to, --method or --path",
    )


def request_to_json(request: Request, view: PolicyView) -> dict[str, Any]:
    """A request in the words of a decision case, so that `explain` takes it."""
    members: dict[str, Any] = {
        "protocol": request.protocol,
        "source_principal": request.principal,
        "identity_state": "unavailable" if isinstance(request.principal, Unavailable) else "",
        "source_ip": request.source_ip,
        "remote_ip": request.remote_ip,
        "destination_ip": request.destination_ip,
        "port": request.port,
        "method": request.method,
        "path": request.path,
        "host": request.host,
        "headers": {name: list(values) for name, values in request.headers.items()},
        "sni": request.sni,
        "jwt_claims": request.claims,
        "dynamic_metadata": request.dynamic_metadata,
    }
    if request.protocol != "tcp" and normalize(request.path, view.mesh.path_normalization) != request.path:
        members["normalized_path"] = request.path
    return {name: value for name, value in members.items() if value or name == "protocol"}
