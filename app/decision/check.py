"""Decides one Check. Total: whatever comes in, a decision comes out, and what is not clear is a denial.

A straight line without an await: one reference to the state, who calls, who sent the request, where it goes, what the
rules say. What a client can write (headers, path) is never asked who it is or where it goes. Only where the rules come
to a provider the line is interrupted: `begin` returns what is left to do, and it ends on the state that it began with.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache

import structlog

from app.decision.ask_providers import ProviderDesk
from app.decision.attributes import CheckAnswer, CheckAttributes, Peer, Transport
from app.decision.authenticate_request import ANYBODY, Authenticated, NoVerifier, RequestAuthenticator
from app.decision.counters import CheckCounters
from app.decision.lift_by_grants import GrantDesk
from app.decision.open_check import OpenCheck, decide_by_policies
from app.decision.overload import LoopLag
from app.decision.ports import PolicyProvider, ProviderAnswer
from app.decision.state import DecisionState, StateHolder
from app.decision.target import resolve_target
from app.identity.caller import CallerIdentity, IdentityState
from app.identity.forwarded_for import HEADER as FORWARDED_FOR
from app.identity.forwarded_for import original_client
from app.identity.peer_certificate import read_peer_certificate
from app.identity.xfcc import HEADER as XFCC
from app.identity.xfcc import XfccTrust, read_xfcc, resolve_caller
from app.limits import CheckLimits, EffectLimits, TokenLimits
from app.policy.authentication_index import AuthenticationIndex
from app.policy.decision import Decision, Reason
from app.policy.effects import NO_EFFECTS, effects_problem, other_spellings, removed_spellings, sendable
from app.policy.enforcement_point import TARGET_UNKNOWN, EnforcementPoint
from app.policy.quarantine import Quarantine, QuarantineIndex
from app.policy.request import Request
from app.policy.target import PointKind, Target

_log = structlog.get_logger(__name__)

_LOG_ERRORS_EVERY = 10.0  # seconds

_NO_SNAPSHOT = CheckAnswer(Decision(False, Reason.NO_SNAPSHOT, hint="this worker has not loaded a snapshot yet"))
_OVERLOADED = Decision(False, Reason.OVERLOADED, hint="the worker has a queue that does not drain: add workers")
_CALLER_UNKNOWN = Decision(
    False, Reason.CALLER_UNKNOWN, hint="register the proxy that asks as an EnforcementPoint with its SPIFFE ID"
)
_TOO_OLD = Decision(False, Reason.SNAPSHOT_TOO_OLD, hint="the authority was not heard for check.deny_after_seconds")
_INTERNAL = Decision(False, Reason.INTERNAL, hint="evaluation failed inside the worker; its log has the reason")
_NO_METHOD = Decision(False, Reason.MALFORMED, hint="the request has no method")
_NO_SLASH = Decision(False, Reason.MALFORMED, hint="the request path does not start with a slash")
_LONG_PATH = Decision(False, Reason.MALFORMED, hint="the request path is longer than check.max_path_bytes")

_TOO_MANY_QUESTIONS = Decision(
    False,
    Reason.OVERLOADED,
    hint="check.max_provider_questions are in flight: add workers, or make providers faster",
)
_BAD_CERTIFICATE = Decision(
    False, Reason.MALFORMED, hint="the peer's certificate cannot be read, and certificates are in quarantine"
)


class PendingCheck:
    """A Check that waits for providers. End it by one of its methods, once."""

    __slots__ = ("_question", "_service", "_started")

    def __init__(self, service: CheckService, question: OpenCheck, started: float) -> None:
        self._service = service
        self._question = question
        self._started = started

    async def finish(self, seconds: float | None = None) -> CheckAnswer:
        """The answer, after asking: within limits.check.provider_budget_seconds, or `seconds` if less. Never raises.

        Cancelled, it cancels the questions.
        """
        return await self._service.finish(self._question, self._started, seconds)

    def unasked(self) -> CheckAnswer:
        """The denial that comes of nobody being asked."""
        return self._service.settle(self._question, {}, self._started)


class CheckService:
    """Answers Checks from the state that the holder has at that moment."""

    def __init__(
        self,
        holder: StateHolder,
        *,
        limits: CheckLimits,
        effect_limits: EffectLimits | None = None,
        providers: PolicyProvider | None = None,
        lag: LoopLag | None = None,
        counters: CheckCounters | None = None,
        tokens: RequestAuthenticator | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._holder = holder
        self._limits = limits
        self._effect_limits = effect_limits or EffectLimits()
        self._tokens = tokens if tokens is not None else RequestAuthenticator(NoVerifier(), TokenLimits())
        self._lag = lag if lag is not None else LoopLag(max_queue_seconds=limits.max_queue_seconds)
        self._wall_clock = wall_clock
        self._logged_error_at = float("-inf")
        self.counters = counters if counters is not None else CheckCounters()
        self._grants = GrantDesk(self.counters, wall_clock)
        self._desk = None if providers is None else ProviderDesk(providers, limits=limits, counters=self.counters)

    def check(self, attributes: CheckAttributes, peer: Peer) -> CheckAnswer:
        """The decision for one request without asking any provider: where one is needed, a denial. Never raises."""
        begun = self.begin(attributes, peer)
        return begun if isinstance(begun, CheckAnswer) else begun.unasked()

    async def decide(self, attributes: CheckAttributes, peer: Peer, seconds: float | None = None) -> CheckAnswer:
        """The decision for one request; providers are waited for at most `seconds`. Never raises."""
        begun = self.begin(attributes, peer)
        return begun if isinstance(begun, CheckAnswer) else await begun.finish(seconds)

    def begin(self, attributes: CheckAttributes, peer: Peer) -> CheckAnswer | PendingCheck:
        """The decision for one request, or what is left to do where providers must be asked. Never raises."""
        started = time.perf_counter()
        state = self._holder.state
        if state is None:
            return self._end(_NO_SNAPSHOT, attributes, started)
        try:
            answer = self._answer(state, attributes, peer)
        except Exception as error:  # noqa: BLE001 - an exception would be an error to Envoy, and may fail open
            answer = self._failed(state, error)
        if isinstance(answer, OpenCheck):
            return PendingCheck(self, answer, started)
        return self._end(answer, attributes, started)

    async def finish(self, question: OpenCheck, started: float, seconds: float | None) -> CheckAnswer:
        """End an interrupted Check by asking; for `PendingCheck`."""
        budget = self._limits.provider_budget_seconds
        budget = budget if seconds is None else min(budget, seconds)
        try:
            answers: Mapping[str, ProviderAnswer] | None = {}
            if self._desk is not None:
                deadline = asyncio.get_running_loop().time() + budget
                answers = await self._desk.ask(question.needed, deadline)
        except Exception as error:  # noqa: BLE001 - an exception would be an error to Envoy, and may fail open
            return self._end(self._failed(question.state, error), question.needed.attributes, started)
        return self.settle(question, answers, started)

    def settle(self, question: OpenCheck, answers: Mapping[str, ProviderAnswer] | None, started: float) -> CheckAnswer:
        """End an interrupted Check with answers, None when there are too many questions; for `PendingCheck`."""
        try:
            answer = question.answer(_TOO_MANY_QUESTIONS) if answers is None else question.settle(answers)
        except Exception as error:  # noqa: BLE001 - an exception would be an error to Envoy, and may fail open
            answer = self._failed(question.state, error)
        return self._end(answer, question.needed.attributes, started)

    def _end(self, answer: CheckAnswer, attributes: CheckAttributes, started: float) -> CheckAnswer:
        if answer.effects is not NO_EFFECTS:
            answer = self._carried_out(answer, attributes)
        if answer.shadow is not None:
            self.counters.add_shadow(answer.shadow)
        if self._holder.stale:
            answer = replace(answer, stale=True)
        self.counters.add(answer.decision, time.perf_counter() - started)
        return answer

    def _failed(self, state: DecisionState, error: Exception) -> CheckAnswer:
        self._note_error(error)
        return CheckAnswer(_INTERNAL, state.number, state.revision)

    def _answer(self, state: DecisionState, attributes: CheckAttributes, peer: Peer) -> CheckAnswer | OpenCheck:
        refusal = self._refuse_early(attributes)
        if refusal is not None:
            return CheckAnswer(refusal, state.number, state.revision)
        point, trust = _calling_point(state, attributes, peer)
        if point is None and peer.transport is Transport.MUTUAL_TLS:
            return CheckAnswer(_CALLER_UNKNOWN, state.number, state.revision)
        identity = resolve_caller(
            source_principal=attributes.source_principal,
            xfcc=() if attributes.source_principal else _xfcc(attributes),
            trust=trust,
            # An unregistered caller may be a waypoint: that it says nothing about identity means nothing.
            at_waypoint=point is None or point.kind is PointKind.WAYPOINT,
            expected_by=peer.spiffe_id,
        )
        word = "asserted" if identity.asserted else identity.state.value
        denial = None
        if state.quarantines is not None:
            denial = self._quarantined(state.quarantines, identity, attributes, peer, trust)
        if denial is None and identity.state is IdentityState.UNAVAILABLE:
            self.counters.unavailable_identities += 1
            if point is None or point.require_identity:
                denial = _identity_unavailable(identity)
        if denial is None and point is None and peer.transport is Transport.BEHIND_ZTUNNEL:
            denial = _CALLER_UNKNOWN
        if denial is not None:
            return CheckAnswer(denial, state.number, state.revision, word)
        target = resolve_target(state, point, attributes)
        if target is None:
            return CheckAnswer(TARGET_UNKNOWN, state.number, state.revision, word)
        request = _request(attributes, identity.principal, point)
        user = ANYBODY if state.authentications is None else self._authenticate(state.authentications, target, request)
        if user.denial is not None:  # before any policy
            return CheckAnswer(user.denial, state.number, state.revision, word, user.effects)
        is_known = point is not None
        return decide_by_policies(
            state, target, request, word, user, attributes, is_known=is_known, grants=self._grants
        )

    def _authenticate(self, authentications: AuthenticationIndex, target: Target, request: Request) -> Authenticated:
        """The end user, where tokens are verified; what is known of it stands in the request afterwards."""
        tokens = authentications.at(target)
        if tokens is None or request.protocol == "tcp":
            return ANYBODY
        user = self._tokens.authenticate(tokens, request, self._wall_clock())
        request.claims, request.space_delimited_claims = user.claims, user.space_delimited
        return user

    def _quarantined(
        self,
        quarantines: QuarantineIndex,
        identity: CallerIdentity,
        attributes: CheckAttributes,
        peer: Peer,
        trust: XfccTrust,
    ) -> Decision | None:
        """The denial of who is in quarantine: the sender, its certificate, or the proxy that asks."""
        now = datetime.fromtimestamp(self._wall_clock(), UTC)
        found = quarantines.of_identity(identity.principal, now) or quarantines.of_identity(peer.spiffe_id, now)
        if found is not None:
            return found.decision
        return _by_certificate(quarantines, attributes, trust, now) if quarantines.revoked else None

    def _refuse_early(self, attributes: CheckAttributes) -> Decision | None:
        """What is denied whatever the policies say."""
        if attributes.problem:
            return Decision(False, Reason.MALFORMED, hint=attributes.problem)
        if self._lag.shedding:
            return _OVERLOADED
        deny_after = self._limits.deny_after_seconds
        if deny_after > 0 and self._holder.age_seconds() > deny_after:
            return _TOO_OLD
        return None if attributes.protocol == "tcp" else _http_problem(attributes, self._limits.max_path_bytes)

    def _carried_out(self, answer: CheckAnswer, attributes: CheckAttributes) -> CheckAnswer:
        """The answer as it can be carried out: see `app.policy.effects`."""
        effects = answer.effects
        if answer.decision.allowed:
            problem = effects_problem(effects, self._effect_limits)
            if problem:
                self.counters.refused_effects += 1
                decision = replace(answer.decision, allowed=False, reason=Reason.MALFORMED, hint=problem)
                return replace(answer, decision=decision, effects=NO_EFFECTS)
            if effects.query_to_set or effects.query_to_remove:
                effects = replace(effects, query_to_remove=removed_spellings(effects, attributes.path))
            spellings = other_spellings(effects, attributes.headers)
            if spellings:
                removed = dict.fromkeys((*effects.headers_to_remove, *spellings))
                effects = replace(effects, headers_to_remove=tuple(removed))
            return replace(answer, effects=effects)
        sent = sendable(effects, self._effect_limits)
        if sent != effects:
            self.counters.refused_effects += 1
            answer = replace(answer, effects=sent)
        return answer

    def _note_error(self, error: Exception) -> None:
        self.counters.errors += 1
        now = time.perf_counter()
        if now - self._logged_error_at >= _LOG_ERRORS_EVERY:
            self._logged_error_at = now
            _log.error("check_failed", exc_info=error, errors=self.counters.errors)


def _http_problem(attributes: CheckAttributes, max_path_bytes: int) -> Decision | None:
    if not attributes.method:
        return _NO_METHOD
    if not attributes.path.startswith("/"):  # also a CONNECT, and every absolute form
        return _NO_SLASH
    return _LONG_PATH if len(attributes.path) > max_path_bytes else None


def _xfcc(attributes: CheckAttributes) -> Sequence[str]:
    return attributes.headers.get(XFCC, ())


def _calling_point(
    state: DecisionState, attributes: CheckAttributes, peer: Peer
) -> tuple[EnforcementPoint | None, XfccTrust]:
    """The registered proxy behind the call, and why its XFCC may be believed."""
    points = state.points
    match peer.transport:
        case Transport.MUTUAL_TLS:
            return points.by_spiffe_id.get(peer.spiffe_id), XfccTrust.AUTHENTICATED
        case Transport.LOCAL:
            point = points.by_listener.get(peer.listener)
            return point, XfccTrust.NONE if point is None else XfccTrust.LOCAL
        case Transport.BEHIND_ZTUNNEL:
            values = _xfcc(attributes)
            element = read_xfcc(values) if values else None
            return (None if element is None else points.behind_ztunnel.get(element.by)), XfccTrust.ASSERTED


def _by_certificate(
    quarantines: QuarantineIndex, attributes: CheckAttributes, trust: XfccTrust, now: datetime
) -> Decision | None:
    """The denial of a revoked certificate, and of one that cannot be read while some are revoked."""
    encoded, sha256 = attributes.source_certificate, ""
    if not encoded and not attributes.source_principal and trust is not XfccTrust.NONE:
        element = read_xfcc(_xfcc(attributes))
        if element is not None:
            encoded, sha256 = element.cert, element.hash
    if not encoded:
        return _denial(quarantines.of_certificate("", "", sha256, now)) if sha256 else None
    certificate = read_peer_certificate(encoded)
    if certificate is None:
        return _BAD_CERTIFICATE
    found = quarantines.of_certificate(certificate.issuer_key_id, certificate.serial, certificate.sha256, now)
    return _denial(found)


def _denial(quarantine: Quarantine | None) -> Decision | None:
    return None if quarantine is None else quarantine.decision


@lru_cache(maxsize=16)
def _identity_unavailable(identity: CallerIdentity) -> Decision:
    return Decision(False, Reason.IDENTITY_UNAVAILABLE, hint=identity.hint)


def _request(attributes: CheckAttributes, principal: str, point: EnforcementPoint | None) -> Request:
    request = Request(
        protocol=attributes.protocol,
        principal=principal,
        source_ip=attributes.source_ip,
        destination_ip=attributes.destination_ip,
        port=attributes.destination_port,
        method=attributes.method,
        path=attributes.path,
        host=attributes.host,
        headers=attributes.headers,
        sni=attributes.sni,
    )
    if point is not None and point.trusted_hops:
        forwarded = attributes.headers.get(FORWARDED_FOR, ())
        request.remote_ip = original_client(forwarded, attributes.source_ip, point.trusted_hops)
    return request
