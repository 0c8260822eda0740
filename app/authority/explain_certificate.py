"""Why did a node proxy get no certificate? By request id, or by asking the same question again.

A request id finds what was recorded when the request was refused. A caller and an identity are judged against the
inventory of now, without a token: what is shown is every check in order, the first that fails, and what to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from app.authority.certificate_request import AccessRules, CertificateStep
from app.authority.placements import Placements, SourceState
from app.authority.quarantines import QUARANTINE_ADVICE, NoQuarantines, Quarantines
from app.authority.refusals import Refusal, Refusals
from app.ca.impersonation import NodeCaller, Refused, Step, authorize, authorize_own
from app.errors import AppError, ErrorCode

_ADVICE_OF_STEP = {
    CertificateStep.DECODE: "the caller does not speak istio.v1.auth; check what sends to this port.",
    CertificateStep.CLUSTER: "set the node proxy's CLUSTER_ID to this cluster's name, or add its name as an alias.",
    CertificateStep.RATE: "wait; if it persists, find out why this node asks so often, or raise the limit.",
    CertificateStep.LOOP: "find out why the node proxy does not keep its certificate.",
    CertificateStep.ADMISSION: "wait; node proxies ask again by themselves. If it persists, add CPU or a replica.",
    CertificateStep.CSR: "the message says what is wrong with the CSR.",
    CertificateStep.ISSUE: "see the reason; the log has more under this request id.",
}
_WORDS = {
    CertificateStep.DECODE: "the request is valid protobuf",
    CertificateStep.CLOCK: "the authority's clock was not moved",
    CertificateStep.AUTHENTICATE: "the bearer token, or the client certificate, is valid",
    CertificateStep.CLUSTER: "the cluster id agrees with the token's issuer",
    CertificateStep.RATE: "the caller keeps within its rate",
    CertificateStep.LOOP: "the caller does not ask long before it needs to, again and again",
    CertificateStep.ADMISSION: "its turn came in time",
    CertificateStep.CSR: "the CSR is acceptable",
    CertificateStep.KEY: "the key is neither blocked nor another workload's",
    CertificateStep.LIFETIME: "the lifetime can be granted",
    CertificateStep.QUARANTINE: "neither caller, identity nor node is in quarantine",
    CertificateStep.ISSUE: "the certificate is issued and on record",
    Step.CALLER_ACCOUNT: "the caller's service account may ask for others",
    Step.IDENTITY: "the requested identity is well-formed",
    Step.TRUST_DOMAIN: "the identity is of this trust domain",
    Step.CALLER_POD: "the caller's pod is in the inventory",
    Step.CALLER_POD_UID: "the pod's UID is the token's",
    Step.CALLER_POD_ACCOUNT: "the pod's service account is the token's",
    Step.CALLER_NODE: "the caller's node is known and the same everywhere",
    Step.NODE_BANNED: "the node is not banned",
    Step.PLACEMENT: "a workload with that identity runs on the node",
}
_ORDER: tuple[CertificateStep | Step, ...] = (
    CertificateStep.DECODE,
    CertificateStep.CLOCK,
    CertificateStep.AUTHENTICATE,
    CertificateStep.CLUSTER,
    *Step,
    CertificateStep.RATE,
    CertificateStep.LOOP,
    CertificateStep.ADMISSION,
    CertificateStep.CSR,
    CertificateStep.KEY,
    CertificateStep.LIFETIME,
    CertificateStep.QUARANTINE,
    CertificateStep.ISSUE,
)
_JUDGED_AGAIN = frozenset({*Step, CertificateStep.QUARANTINE})


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """One check: `ok`, `refused` or `not reached`."""

    name: str
    outcome: str
    description: str


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

    def to_json(self) -> dict[str, Any]:
        """What the API and the command line show."""
        return {
            "outcome": self.outcome,
            "identity": self.identity,
            "caller": self.caller,
            "node": self.node,
            "cluster": self.cluster,
            "source": self.source.to_json() if self.source else None,
            "reason": self.reason,
            "advice": self.advice,
            "steps": [
                {"name": step.name, "outcome": step.outcome, "description": step.description} for step in self.steps
            ],
            "request": self.refusal.to_json() if self.refusal else None,
        }


class ExplainCertificate:
    """Explains refusals to an operator; never to a caller."""

    def __init__(
        self,
        refusals: Refusals,
        placements: Placements,
        rules: AccessRules,
        quarantines: Quarantines | None = None,
    ) -> None:
        self._refusals = refusals
        self._placements = placements
        self._rules = rules
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
        return CertificateExplanation(
            outcome="refused",
            steps=_steps(_place_of(refusal)),
            reason=refusal.reason,
            advice=refusal.advice or _advice(refusal.step),
            refusal=refusal,
            identity=refusal.identity,
            caller=refusal.caller,
            node=refusal.node,
        )

    async def by_caller(
        self, caller: NodeCaller, identity: str | None = None, *, cluster: str = ""
    ) -> CertificateExplanation:
        """What a caller of a cluster with a valid token would get now; without an identity, for its own.

        Raises:
            AppError: `NOT_FOUND` when no cluster is called so; `UNAVAILABLE` when its placement cannot be read.
        """
        cluster, source = self._placements.named(cluster)
        index = await source.look_again(caller)
        trust_domain = self._rules.trust_domain
        if identity is None:
            verdict = authorize_own(caller, index=index, trust_domain=trust_domain)
        else:
            verdict = authorize(
                caller,
                identity,
                index=index,
                trust_domain=trust_domain,
                trusted_accounts=self._rules.trusted_accounts,
            )
        own = f"spiffe://{trust_domain}/ns/{caller.namespace}/sa/{caller.service_account}"
        ended_at: CertificateStep | Step | None
        if isinstance(verdict, Refused):
            ended_at, reason, advice, node = verdict.step, verdict.reason, verdict.advice, caller.node_name
        else:
            reason, node = self._quarantined(str(verdict.identity), own, verdict.node, cluster), verdict.node
            ended_at, advice = (CertificateStep.QUARANTINE, QUARANTINE_ADVICE) if reason else (None, "")
        return CertificateExplanation(
            outcome="refused" if ended_at else "granted",
            steps=tuple(step for step in _steps(ended_at) if step.name in _JUDGED_AGAIN),
            reason=reason,
            advice=advice,
            identity=identity or own,
            caller=f"{caller.namespace}/{caller.service_account}",
            node=node,
            cluster=cluster,
            source=source.describe(),
        )

    def _quarantined(self, identity: str, own: str, node: str, cluster: str) -> str:
        """Why the certificate would not be issued after all; empty when it would."""
        try:
            self._quarantines.check(identity=identity, node=node, cluster=cluster)
            self._quarantines.check(identity=own)
        except AppError as error:
            if error.code is not ErrorCode.UNAUTHENTICATED:
                raise
            return error.diagnosis
        return ""


def _place_of(refusal: Refusal) -> CertificateStep | Step:
    if refusal.step == CertificateStep.AUTHORIZE:
        return Step(refusal.check) if refusal.check in set(Step) else Step.IDENTITY
    return CertificateStep(refusal.step)


def _steps(ended_at: CertificateStep | Step | None) -> tuple[StepOutcome, ...]:
    outcomes = []
    outcome = "ok"
    for step in _ORDER:
        if step == ended_at:
            outcomes.append(StepOutcome(step.value, "refused", _WORDS[step]))
            outcome = "not reached"
        else:
            outcomes.append(StepOutcome(step.value, outcome, _WORDS[step]))
    return tuple(outcomes)


def _advice(step: str) -> str:
    return _ADVICE_OF_STEP.get(CertificateStep(step), "")
