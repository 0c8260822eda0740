"""CreateCertificate: who asks, may they, what do they get.

A straight line: authenticate, authorise (placement; one live look at the inventory before a refusal that it could
lift), bound the rate, parse the CSR, then the issuer's job. Every authentication and impersonation failure looks the
same from outside; the reason goes to one log line, a counter and the bounded memory of refusals.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from app.authority.certificate_request import AccessRules, Attempt, CertificateRequest, CertificateStep
from app.authority.clusters import Clusters
from app.authority.credentials import Credentials
from app.authority.issue_certificate import Issued, Issuer, Order
from app.authority.ports import Clock, TokenCaller
from app.authority.rate_limits import TokenBuckets
from app.authority.report_certificate import ReportCertificate
from app.ca.csr import check_requested_identity, parse_csr
from app.ca.impersonation import Granted
from app.errors import AppError, ErrorCode
from app.limits import CertificateLimits


class Authenticate(Protocol):
    """Says who calls (`app.authority.authenticate_caller`)."""

    async def __call__(self, credentials: Credentials, attempt: Attempt) -> TokenCaller:
        """The caller; raises `UNAUTHENTICATED` or `UNAVAILABLE`."""
        ...


class Authorize(Protocol):
    """Says whether a caller may have an identity (`app.authority.authorize_identity`)."""

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
        issuer: Issuer,
        report: ReportCertificate,
        rules: AccessRules,
        limits: CertificateLimits,
        clock: Clock,
    ) -> None:
        self._authenticate = authenticate
        self._authorize = authorize
        self._issuer = issuer
        self._report = report
        self._rules = rules
        self._limits = limits
        self._clock = clock
        self._nodes = _buckets(limits, limits.node_rate_per_second, limits.node_burst)
        self._identities = _buckets(limits, limits.identity_rate_per_second, limits.identity_burst)

    async def __call__(self, request: CertificateRequest, credentials: Credentials, request_id: str) -> list[str]:
        """The certificate chain: leaf, each intermediate alone, all roots last.

        Raises:
            AppError: `UNAUTHENTICATED`, always with the same text, for whoever may not have it; `MALFORMED` and
                `INVALID` for a bad CSR or lifetime; `RATE_LIMITED`, `OVERLOADED`, `UNAVAILABLE`, `INTERNAL` as
                they say.
        """
        attempt = Attempt(request_id, credentials.peer, self._clock.now())
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
        return issued.chain

    def refuse_undecodable(self, credentials: Credentials, request_id: str) -> AppError:
        """Record a request whose bytes are not the protobuf that was expected; the error to answer with."""
        attempt = Attempt(request_id, credentials.peer, self._clock.now(), CertificateStep.DECODE)
        error = AppError(ErrorCode.MALFORMED, "the request is not an IstioCertificateRequest")
        self._report.refused(attempt, error)
        return error

    async def _create(self, request: CertificateRequest, credentials: Credentials, attempt: Attempt) -> Issued:
        caller = await self._authenticate(credentials, attempt)

        attempt.step = CertificateStep.RATE
        # Before anything that costs: a compromised node proxy holds a valid token.
        if not self._nodes.take(_caller_key(caller), now=attempt.time.timestamp()):
            raise AppError(ErrorCode.RATE_LIMITED, "this node asks for too many certificates; slow down")

        granted = await self._authorize(request, caller, attempt)

        attempt.step = CertificateStep.RATE
        # By node and identity: an identity that runs on a thousand nodes is asked for a thousand times at once.
        if not self._identities.take((_caller_key(caller), attempt.identity), now=attempt.time.timestamp()):
            raise AppError(ErrorCode.RATE_LIMITED, "this node asks too often for this identity; slow down")

        attempt.step = CertificateStep.CSR
        csr = parse_csr(request.csr_pem, self._limits)
        identity = granted.identity.spiffe_id
        if self._rules.csr_must_agree:
            check_requested_identity(csr, identity)

        attempt.step = CertificateStep.ISSUE
        return await self._issuer.issue(
            Order(
                identity=identity,
                csr=csr,
                ttl_seconds=request.ttl_seconds,
                actor=_actor(request, caller, granted),
                request_id=attempt.request_id,
                detail=_ledger_detail(caller, granted, self._rules.clusters),
            )
        )


def _buckets(limits: CertificateLimits, rate: float, burst: int) -> TokenBuckets:
    return TokenBuckets(rate_per_second=rate, burst=burst, max_keys=limits.max_tracked_callers)


def _caller_key(caller: TokenCaller) -> tuple[str, str, str, str]:
    """One node proxy: its account and where its token says it runs."""
    return (caller.issuer, f"{caller.namespace}/{caller.service_account}", caller.node_name, caller.pod_uid)


def _actor(request: CertificateRequest, caller: TokenCaller, granted: Granted) -> str:
    account = f"{caller.namespace}/{caller.service_account}"
    return f"workload:{account}" if request.impersonated is None else f"node:{account}@{granted.node}"


def _ledger_detail(caller: TokenCaller, granted: Granted, clusters: Clusters) -> dict[str, Any]:
    return {
        "node": granted.node,
        "callerNamespace": caller.namespace,
        "callerServiceAccount": caller.service_account,
        "callerPod": caller.pod_name,
        "tokenId": caller.token_id,
        "tokenIssuer": caller.issuer,
        "cluster": caller.cluster or clusters.id,
    }
