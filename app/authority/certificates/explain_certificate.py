"""Why did a node proxy get no certificate? By request id, or by asking the same question again.

A request id finds what was recorded when the request was refused. A caller and an identity are judged as a request
would be that came now, by everything that needs neither a token nor a CSR: clock, rates, placement, quarantine,
lifetime and room. What is shown is every step in order, the first that refuses, what to do, and the lifetime granted.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from app.authority.certificates.certificate_request import AccessRules, CertificateStep
from app.authority.certificates.certificate_steps import (
    ADVICE,
    NEED_A_REQUEST,
    AnyStep,
    StepOutcome,
    outcomes_until,
    place_of,
)
from app.authority.certificates.issue_certificate import Issuer
from app.authority.certificates.key_guard import holder_of
from app.authority.certificates.refusal_reasons import reason_of
from app.authority.certificates.refusals import Refusal, Refusals
from app.authority.certificates.request_guards import RequestGuards
from app.authority.placement.placements import Placements, PlacementSource, SourceState
from app.authority.ports import Clock
from app.authority.quarantine.quarantines import QUARANTINE_ADVICE, QUARANTINED, NoQuarantines, Quarantines
from app.ca.impersonation import Granted, NodeCaller, Refused, authorize, authorize_own
from app.ca.lifetimes import renewal_delay_seconds
from app.ca.profile import TtlGrant
from app.errors import AppError, ErrorCode

DEFAULT_TTL_SECONDS = 86_400  # what ztunnel and istio-agent ask for unless told otherwise


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetime:
    """What a request of now would be granted, and when its holder would renew it."""

    requested_seconds: int
    grant: TtlGrant
    not_after: datetime
    renews_at: datetime

    def to_json(self) -> dict[str, Any]:
        """What the API shows."""
        return {
            "requestedSeconds": self.requested_seconds,
            "grantedSeconds": self.grant.seconds,
            "clamp": self.grant.clamp.value,
            "spreadSeconds": self.grant.spread_seconds,
            "notAfter": self.not_after.isoformat(),
            "renewsAt": self.renews_at.isoformat(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateExplanation:
    """The outcome (`granted` or `refused`), each step in order, the reason and one sentence of advice."""

    outcome: str
    steps: tuple[StepOutcome, ...]
    reason: str = ""
    advice: str = ""
    refusal: Refusal | None = None
    identity: str = ""
    caller: str = ""
    node: str = ""
    cluster: str = ""
    source: SourceState | None = None
    lifetime: Lifetime | None = None

    def to_json(self) -> dict[str, Any]:
        """What the API and the command line show."""
        return {
            "outcome": self.outcome,
            "identity": self.identity,
            "caller": self.caller,
            "node": self.node,
            "cluster": self.cluster,
            "source": self.source.to_json() if self.source else None,
            "lifetime": self.lifetime.to_json() if self.lifetime else None,
            "reason": self.reason,
            "advice": self.advice,
            "steps": [
                {"name": step.name, "outcome": step.outcome, "description": step.description} for step in self.steps
            ],
            "request": self.refusal.to_json() if self.refusal else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """What is asked, with the cluster by its id."""

    caller: NodeCaller
    identity: str | None
    cluster: str
    source: PlacementSource
    ttl_seconds: int


@dataclass(slots=True)
class _Progress:
    """How far the question has come."""

    step: AnyStep
    node: str
    lifetime: Lifetime | None = None


class _Ended(Exception):  # noqa: N818 - no error: the step of a question where it ends
    def __init__(self, step: AnyStep, reason: str, advice: str) -> None:
        super().__init__(reason)
        self.step, self.reason, self.advice = step, reason, advice


class ExplainCertificate:
    """Explains refusals to an operator; never to a caller. It counts nothing: asking changes no rate."""

    def __init__(
        self,
        refusals: Refusals,
        placements: Placements,
        rules: AccessRules,
        *,
        issuer: Issuer,
        guards: RequestGuards,
        clock: Clock,
        quarantines: Quarantines | None = None,
    ) -> None:
        self._refusals = refusals
        self._placements = placements
        self._rules = rules
        self._issuer = issuer
        self._guards = guards
        self._clock = clock
        self._quarantines = quarantines or NoQuarantines()

    def by_request(self, request_id: str) -> CertificateExplanation:
        """What happened to a request.

        Raises:
            AppError: `NOT_FOUND` when no refusal of that id is remembered.
        """
        refusal = self._refusals.find(request_id)
        if refusal is None:
            raise AppError(
                ErrorCode.NOT_FOUND,
                f"no refused request {request_id!r} is remembered: it was granted, is too old, "
                "or another replica or an earlier process answered it; ask by caller and identity instead",
            )
        place = place_of(refusal)
        return CertificateExplanation(
            outcome="refused",
            steps=outcomes_until(place),
            reason=refusal.reason,
            advice=refusal.advice or _advice(place),
            refusal=refusal,
            identity=refusal.identity,
            caller=refusal.caller,
            node=refusal.node,
        )

    async def by_caller(
        self,
        caller: NodeCaller,
        identity: str | None = None,
        *,
        cluster: str = "",
        ttl_seconds: int = DEFAULT_TTL_SECONDS,
    ) -> CertificateExplanation:
        """What a caller of a cluster with a valid token would get now; without an identity, for its own.

        Raises:
            AppError: `NOT_FOUND` when no cluster is called so.
        """
        cluster, source = self._placements.named(cluster)
        asked = _Question(caller=caller, identity=identity, cluster=cluster, source=source, ttl_seconds=ttl_seconds)
        progress = _Progress(CertificateStep.CLOCK, caller.node_name)
        ended: _Ended | None = None
        try:
            await self._walk(asked, progress)
        except _Ended as end:
            ended = end
        except AppError as error:
            ended = _as_end(error, progress.step)
        return CertificateExplanation(
            outcome="refused" if ended else "granted",
            steps=outcomes_until(ended.step if ended else None, not_judged=NEED_A_REQUEST),
            reason=ended.reason if ended else "",
            advice=ended.advice if ended else "",
            identity=identity or self._own(caller),
            caller=caller.account,
            node=progress.node,
            cluster=cluster,
            source=source.describe(),
            lifetime=progress.lifetime,
        )

    async def _walk(self, asked: _Question, progress: _Progress) -> None:
        """Every step in the order of a real request; raises where one refuses."""
        self._issuer.rules.clock_guard.check()
        progress.step = CertificateStep.RATE
        known = self._guards.newest(asked.caller, lambda name: self._rules.clusters.resolve(name) == asked.cluster)
        if known is not None:
            self._guards.check_caller(known)
        progress.step = CertificateStep.AUTHORIZE
        granted = await self._placed(asked)
        identity, progress.node = str(granted.identity), granted.node
        if known is not None:
            progress.step = CertificateStep.IDENTITY_RATE
            self._guards.check_identity(known, identity)
            progress.step = CertificateStep.LOOP
            self._guards.check_loop(known, identity)
        progress.step = CertificateStep.QUARANTINE
        self._quarantines.check(identity=identity, node=granted.node, cluster=asked.cluster)
        self._quarantines.check(identity=self._own(asked.caller))
        progress.step = CertificateStep.ISSUE
        holder = holder_of(cluster=asked.cluster, node=granted.node, identity=identity)
        grant = self._issuer.foresee(granted.identity.spiffe_id, asked.ttl_seconds, holder)
        progress.lifetime = self._lifetime(asked.ttl_seconds, grant)

    async def _placed(self, asked: _Question) -> Granted:
        index = await asked.source.look_again(asked.caller)
        trust_domain = self._rules.trust_domain
        if asked.identity is None:
            verdict = authorize_own(asked.caller, index=index, trust_domain=trust_domain)
        else:
            verdict = authorize(
                asked.caller,
                asked.identity,
                index=index,
                trust_domain=trust_domain,
                trusted_accounts=self._rules.trusted_accounts,
            )
        if isinstance(verdict, Refused):
            raise _Ended(verdict.step, verdict.reason, verdict.advice)
        return verdict

    def _lifetime(self, requested: int, grant: TtlGrant) -> Lifetime:
        now, backdate = self._clock.now(), self._issuer.rules.lifetimes.profile.backdate_seconds
        return Lifetime(
            requested_seconds=requested,
            grant=grant,
            not_after=now + timedelta(seconds=grant.seconds - 1),
            renews_at=now + timedelta(seconds=renewal_delay_seconds(grant.seconds, backdate)),
        )

    def _own(self, caller: NodeCaller) -> str:
        return f"spiffe://{self._rules.trust_domain}/ns/{caller.namespace}/sa/{caller.service_account}"


def _as_end(error: AppError, step: AnyStep) -> _Ended:
    """A refusal of the service as the step that it belongs to, with what an operator may know of it."""
    reason = error.diagnosis or error.detail
    if reason.startswith(QUARANTINED):
        return _Ended(CertificateStep.QUARANTINE, reason, QUARANTINE_ADVICE)
    if (found := reason_of(error.diagnosis)) is not None:
        return _Ended(found[1], reason, found[2])
    return _Ended(step, reason, _advice(step))


def _advice(step: AnyStep) -> str:
    return ADVICE.get(step, "") if isinstance(step, CertificateStep) else ""
