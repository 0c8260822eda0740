"""CreateCertificate: who asks, may they, what do they get.

A straight line: authenticate, authorise, bound the rate, wait for a turn, parse the CSR, then the issuer's job. Each
port has one of its own, which differs in who calls: a token's holder, or a current certificate's. Every failure of
authentication or impersonation looks the same from outside; the reason goes to one log line, a counter and the memory
of refusals.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from app.authority.certificates.certificate_request import (
    AccessRules,
    Attempt,
    CertificateRequest,
    CertificateStep,
    shown,
)
from app.authority.certificates.credentials import Credentials
from app.authority.certificates.issue_certificate import Issued, Issuer, Order
from app.authority.certificates.key_guard import CertifiedKey, holder_of
from app.authority.certificates.report_certificate import ReportCertificate
from app.authority.certificates.request_guards import RequestGuards
from app.authority.ports import MonotonicClock, TokenCaller
from app.ca.csr import Csr, check_requested_identity, parse_csr
from app.ca.impersonation import Granted
from app.ca.key_policy import key_hash
from app.errors import AppError, ErrorCode
from app.limits import CertificateLimits


class Authenticate(Protocol):
    """Says who calls (`app.authority.certificates.authenticate_caller`)."""

    async def __call__(self, credentials: Credentials, attempt: Attempt) -> TokenCaller:
        """The caller; raises `UNAUTHENTICATED` or `UNAVAILABLE`."""
        ...


class Authorize(Protocol):
    """Says whether a caller may have an identity (`app.authority.certificates.authorize_identity`)."""

    async def __call__(self, request: CertificateRequest, caller: TokenCaller, attempt: Attempt) -> Granted:
        """What is granted; raises `UNAUTHENTICATED` or `UNAVAILABLE`."""
        ...


class CreateCertificate:
    """The use case behind `istio.v1.auth.IstioCertificateService/CreateCertificate`."""

    def __init__(
        self,
        *,
        authenticate: Authenticate,
        authorize: Authorize,
        guards: RequestGuards,
        issuer: Issuer,
        report: ReportCertificate,
        rules: AccessRules,
        limits: CertificateLimits,
        clock: MonotonicClock,
    ) -> None:
        """One for each port; `guards`, `issuer` and `report` are shared by all of them."""
        self._authenticate = authenticate
        self._authorize = authorize
        self._guards = guards
        self._issuer = issuer
        self._report = report
        self._rules = rules
        self._limits = limits
        self._clock = clock

    async def __call__(self, request: CertificateRequest, credentials: Credentials, request_id: str) -> Issued:
        """The certificate, its lifetime, and the chain: leaf, each intermediate alone, all roots last.

        Raises:
            AppError: `UNAUTHENTICATED`, always with the same text, for whoever may not have it; `MALFORMED` and
                `INVALID` for a bad CSR, key or lifetime; `FAILED_PRECONDITION` when the clock was moved or the
                authority is about to expire; `RATE_LIMITED`, `OVERLOADED`, `UNAVAILABLE`, `INTERNAL` as they say.
        """
        attempt = self._attempt(credentials, request_id)
        try:
            issued = await self._create(request, credentials, attempt)
        except AppError as error:
            self._report.refused(attempt, error)
            raise
        except asyncio.CancelledError:
            gone = AppError(ErrorCode.TIMEOUT, "the call was cancelled, or not answered within its budget")
            self._report.refused(attempt, gone)
            raise
        self._report.issued(attempt, issued)
        return issued

    def refuse_undecodable(self, credentials: Credentials, request_id: str) -> AppError:
        """Record a request whose bytes are not the protobuf that was expected; the error to answer with."""
        attempt = self._attempt(credentials, request_id)
        attempt.step = CertificateStep.DECODE
        error = AppError(ErrorCode.MALFORMED, "the request is not an IstioCertificateRequest")
        self._report.refused(attempt, error)
        return error

    def _attempt(self, credentials: Credentials, request_id: str) -> Attempt:
        return Attempt(request_id, credentials.peer, self._clock.now(), self._clock.monotonic())

    async def _create(self, request: CertificateRequest, credentials: Credentials, attempt: Attempt) -> Issued:
        attempt.step = CertificateStep.CLOCK
        self._issuer.rules.clock_guard.check()  # before it makes good tokens look expired
        caller = await self._authenticate(credentials, attempt)
        # Before anything that costs: a compromised node proxy holds a valid token.
        self._guards.admit_caller(caller, attempt)
        granted = await self._authorize(request, caller, attempt)
        self._guards.admit_identity(caller, attempt)

        attempt.step = CertificateStep.ADMISSION
        cluster, keys = caller.cluster or self._rules.clusters.id, self._issuer.rules.keys
        holder = holder_of(cluster=cluster, node=granted.node, identity=attempt.identity)
        urgency = self._guards.admission.urgency(keys.in_force_until(holder), now=self._clock.now())
        async with self._guards.admission.turn(f"{cluster}\n{granted.node}", urgency):
            csr = self._accept_csr(request, granted, attempt)
            attempt.step = CertificateStep.ISSUE
            issued = await self._issuer.issue(
                Order(
                    identity=granted.identity.spiffe_id,
                    csr=csr,
                    ttl_seconds=request.ttl_seconds,
                    actor=_actor(request, caller, granted),
                    request_id=attempt.request_id,
                    detail=_ledger_detail(request, caller, granted, cluster),
                    holder=holder,
                    caller=f"spiffe://{self._rules.trust_domain}/ns/{caller.namespace}/sa/{caller.service_account}",
                    presented_serial=caller.renewed_serial,
                )
            )
        self._guards.issued(caller, attempt, issued)
        keys.learn(CertifiedKey(key_hash=key_hash(csr.public_key_der), holder=holder, not_after=issued.svid.not_after))
        return issued

    def _accept_csr(self, request: CertificateRequest, granted: Granted, attempt: Attempt) -> Csr:
        attempt.step = CertificateStep.CSR
        attempt.cert_signer = shown(request.cert_signer)
        if request.cert_signer and self._rules.refuse_cert_signer:
            raise AppError(
                ErrorCode.INVALID,
                "this authority has one signer only; leave CertSigner empty",
                diagnosis=f"signer_name: the request names the signer {shown(request.cert_signer)}",
            )
        csr = parse_csr(request.csr_pem, self._limits)
        if self._rules.csr_must_agree:
            check_requested_identity(csr, granted.identity.spiffe_id)
        return csr


def _actor(request: CertificateRequest, caller: TokenCaller, granted: Granted) -> str:
    account = f"{caller.namespace}/{caller.service_account}"
    return f"workload:{account}" if request.impersonated is None else f"node:{account}@{granted.node}"


def _ledger_detail(request: CertificateRequest, caller: TokenCaller, granted: Granted, cluster: str) -> dict[str, Any]:
    detail = {
        "node": granted.node,
        "callerNamespace": caller.namespace,
        "callerServiceAccount": caller.service_account,
        "callerPod": caller.pod_name,
        "tokenId": caller.token_id,
        "tokenIssuer": caller.issuer,
        "cluster": cluster,
    }
    if caller.renewed_serial:
        detail |= {"renewalOf": caller.renewed_serial, "holder": caller.renewed_holder}
    if request.cert_signer:
        detail["certSigner"] = shown(request.cert_signer)
    return detail
