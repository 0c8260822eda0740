"""Every step of a certificate request in the order in which it is taken, in words, for explanations."""

from __future__ import annotations

from dataclasses import dataclass

from app.authority.certificates.certificate_request import CertificateStep
from app.authority.certificates.refusals import Refusal
from app.ca.impersonation import Step

AnyStep = CertificateStep | Step

ADVICE = {
    CertificateStep.DECODE: "the caller does not speak istio.v1.auth; check what sends to this port.",
    CertificateStep.CLUSTER: "set the node proxy's CLUSTER_ID to this cluster's name, or add its name as an alias.",
    CertificateStep.RATE: "wait; if it persists, find out why this node asks so often, or raise the limit.",
    CertificateStep.AUTHORIZE: "see `gatehouse inventory sources`: nothing is issued by a placement that is too old.",
    CertificateStep.IDENTITY_RATE: "wait; if it persists, find out why this node asks so often, or raise the limit.",
    CertificateStep.LOOP: "find out why the node proxy does not keep its certificate.",
    CertificateStep.ADMISSION: "wait; node proxies ask again by themselves. If it persists, add CPU or a replica.",
    CertificateStep.CSR: "the message says what is wrong with the CSR.",
    CertificateStep.ISSUE: "see the reason; the log has more under this request id.",
}
_WORDS: dict[AnyStep, str] = {
    CertificateStep.DECODE: "the request is valid protobuf",
    CertificateStep.CLOCK: "the authority's clock was not moved",
    CertificateStep.AUTHENTICATE: "the bearer token, or the client certificate, is valid",
    CertificateStep.CLUSTER: "the cluster id agrees with the token's issuer",
    CertificateStep.RATE: "the caller keeps within its rate",
    CertificateStep.AUTHORIZE: "the placement of the cluster is known and not too old",
    Step.CALLER_ACCOUNT: "the caller's service account may ask for others",
    Step.IDENTITY: "the requested identity is well-formed",
    Step.TRUST_DOMAIN: "the identity is of this trust domain",
    Step.CALLER_POD: "the caller's pod is in the inventory",
    Step.CALLER_POD_UID: "the pod's UID is the token's",
    Step.CALLER_POD_ACCOUNT: "the pod's service account is the token's",
    Step.CALLER_NODE: "the caller's node is known and the same everywhere",
    Step.NODE_BANNED: "the node is not banned",
    Step.PLACEMENT: "a workload with that identity runs on the node",
    CertificateStep.IDENTITY_RATE: "the caller keeps within the rate for this identity",
    CertificateStep.LOOP: "the caller does not ask long before it needs to, again and again",
    CertificateStep.ADMISSION: "its turn came in time",
    CertificateStep.CSR: "the CSR is acceptable",
    CertificateStep.QUARANTINE: "neither caller, identity nor node is in quarantine",
    CertificateStep.LIFETIME: "the lifetime can be granted",
    CertificateStep.KEY: "the key is neither blocked nor another workload's",
    CertificateStep.ISSUE: "the certificate is issued and on record",
}
# What only a real request shows: its bytes, its credentials, its CSR, and whether ledger and signer answer in time.
NEED_A_REQUEST = frozenset(
    {
        CertificateStep.DECODE,
        CertificateStep.AUTHENTICATE,
        CertificateStep.CLUSTER,
        CertificateStep.ADMISSION,
        CertificateStep.CSR,
        CertificateStep.KEY,
    }
)


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """One check: `ok`, `refused`, `not reached`, or `not judged` where that needs a real request."""

    name: str
    outcome: str
    description: str


def outcomes_until(
    ended_at: AnyStep | None, *, not_judged: frozenset[AnyStep] = frozenset()
) -> tuple[StepOutcome, ...]:
    """Every step in order: those before the one where it ended are good, those after it were not reached."""
    found, outcome = [], "ok"
    for step, words in _WORDS.items():
        if step == ended_at:
            found.append(StepOutcome(step.value, "refused", words))
            outcome = "not reached"
        else:
            is_open = step in not_judged and outcome == "ok"
            found.append(StepOutcome(step.value, "not judged" if is_open else outcome, words))
    return tuple(found)


def place_of(refusal: Refusal) -> AnyStep:
    """The single step at which a remembered request was refused."""
    if refusal.step != CertificateStep.AUTHORIZE:
        return CertificateStep(refusal.step)
    if refusal.check in set(Step):
        return Step(refusal.check)
    return Step.IDENTITY if refusal.check == "metadata" else CertificateStep.AUTHORIZE
