"""CreateCertificate: who asks, may they, what do they get.

A straight line: authenticate, authorise (placement; one live look at the inventory before a refusal that it could
lift), bound the rate, parse the CSR, then the issuer's job. Every authentication and impersonation failure looks the
same from outside; the reason goes to one log line, a counter and the bounded memory of refusals.
"""

from __future__ import annotations

import asyncio
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol
from urllib.parse import quote

import structlog

from app.authority.clusters import Clusters
from app.authority.credentials import Credentials, bearer_token, unauthenticated
from app.authority.issue_certificate import Issued, Issuer, Order
from app.authority.placements import Placements
from app.authority.ports import Clock, TokenAuthenticator, TokenCaller
from app.authority.rate_limits import TokenBuckets
from app.authority.refusals import Refusal, Refusals
from app.ca.csr import check_requested_identity, parse_csr
from app.ca.impersonation import (
    DEFAULT_TRUSTED_ACCOUNTS,
    Granted,
    NodeCaller,
    PlacementIndex,
    Refused,
    Step,
    authorize,
    authorize_own,
)
from app.errors import AppError, ErrorCode
from app.identity.spiffe import TrustDomain
from app.limits import CertificateLimits

_log = structlog.get_logger()

# What a fresh look at the inventory may change.
_LIFTED_BY_NEWS = frozenset(
    {Step.CALLER_POD, Step.CALLER_POD_UID, Step.CALLER_POD_ACCOUNT, Step.CALLER_NODE, Step.NODE_BANNED, Step.PLACEMENT}
)
_MAX_SHOWN = 256  # characters of a caller's text in logs and in memory


class CertificateStep(StrEnum):
    """Where a request is, in order."""

    DECODE = "decode"
    AUTHENTICATE = "authenticate"
    CLUSTER = "cluster"
    AUTHORIZE = "authorize"
    RATE = "rate"
    CSR = "csr"
    ISSUE = "issue"


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateRequest:
    """What a caller asks for. `fault` says why its metadata cannot be believed; such a request is refused."""

    csr_pem: str
    ttl_seconds: int = 0
    impersonated: str | None = None
    cert_signer: str = ""
    fault: str = ""


class CertificateObserver(Protocol):
    """Counts what happens; metrics implement it."""

    def issued(self, *, seconds: float, clamped: bool) -> None:
        """A certificate was issued."""
        ...

    def refused(self, *, reason: str, code: str) -> None:
        """A request got none; `reason` is from a closed set."""
        ...


class NoObserver:
    """Counts nothing."""

    def issued(self, *, seconds: float, clamped: bool) -> None:
        """Nothing."""

    def refused(self, *, reason: str, code: str) -> None:
        """Nothing."""


@dataclass(slots=True)
class _Attempt:
    """How far one request has come, for the log and for explain."""

    request_id: str
    peer: str
    time: datetime
    step: CertificateStep = CertificateStep.AUTHENTICATE
    caller: TokenCaller | None = None
    node: str = ""
    identity: str = ""
    check: str = ""
    advice: str = ""

    @property
    def account(self) -> str:
        return f"{self.caller.namespace}/{self.caller.service_account}" if self.caller else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRules:
    """Who may ask: the trust domain, the accounts of node proxies, the cluster's names.

    `csr_must_agree`: refuse a CSR that names another identity than the authorised one (istiod ignores the name).
    """

    trust_domain: TrustDomain
    trusted_accounts: AbstractSet[str] = DEFAULT_TRUSTED_ACCOUNTS
    clusters: Clusters = field(default_factory=Clusters)
    csr_must_agree: bool = True


class CreateCertificate:
    """The use case behind `istio.v1.auth.IstioCertificateService/CreateCertificate`."""

    def __init__(
        self,
        *,
        authenticator: TokenAuthenticator,
        placements: Placements,
        issuer: Issuer,
        refusals: Refusals,
        rules: AccessRules,
        limits: CertificateLimits,
        clock: Clock,
        observer: CertificateObserver | None = None,
    ) -> None:
        self._authenticator = authenticator
        self._placements = placements
        self._issuer = issuer
        self._refusals = refusals
        self._rules = rules
        self._limits = limits
        self._clock = clock
        self._observer = observer or NoObserver()
        self._nodes = _buckets(limits, limits.node_rate_per_second, limits.node_burst)
        self._identities = _buckets(limits, limits.identity_rate_per_second, limits.identity_burst)
        self._log_lines = _buckets(limits, limits.refusal_log_per_second, limits.refusal_log_burst)
        self._unlogged = 0

    async def __call__(self, request: CertificateRequest, credentials: Credentials, request_id: str) -> list[str]:
        """The certificate chain: leaf, each intermediate alone, all roots last.

        Raises:
            AppError: `UNAUTHENTICATED`, always with the same text, for whoever may not have it; `MALFORMED` and
                `INVALID` for a bad CSR or lifetime; `RATE_LIMITED`, `OVERLOADED`, `UNAVAILABLE`, `INTERNAL` as
                they say.
        """
        attempt = _Attempt(request_id, credentials.peer, self._clock.now())
        try:
            issued = await self._create(request, credentials, attempt)
        except AppError as error:
            self._refuse(attempt, error)
            raise
        except asyncio.CancelledError:
            gone = AppError(ErrorCode.TIMEOUT, "the call was cancelled, or not answered within its budget")
            self._refuse(attempt, gone)
            raise
        self._report(attempt, issued)
        return issued.chain

    def refuse_undecodable(self, credentials: Credentials, request_id: str) -> AppError:
        """Record a request whose bytes are not the protobuf that was expected; the error to answer with."""
        attempt = _Attempt(request_id, credentials.peer, self._clock.now(), CertificateStep.DECODE)
        error = AppError(ErrorCode.MALFORMED, "the request is not an IstioCertificateRequest")
        self._refuse(attempt, error)
        return error

    async def _create(self, request: CertificateRequest, credentials: Credentials, attempt: _Attempt) -> Issued:
        token = bearer_token(credentials, max_bytes=self._limits.max_token_bytes)
        caller = await self._authenticator.authenticate(token, now=attempt.time, cluster=credentials.cluster_id)
        attempt.caller, attempt.node = caller, caller.node_name

        attempt.step = CertificateStep.CLUSTER
        if not self._rules.clusters.agree(caller.cluster, credentials.cluster_id):
            raise unauthenticated(f"the caller says cluster {_shown(credentials.cluster_id)}")

        attempt.step = CertificateStep.RATE
        # Before anything that costs: a compromised node proxy holds a valid token.
        if not self._nodes.take(_caller_key(caller), now=attempt.time.timestamp()):
            raise AppError(ErrorCode.RATE_LIMITED, "this node asks for too many certificates; slow down")

        attempt.step = CertificateStep.AUTHORIZE
        attempt.identity = _shown(request.impersonated or "")
        granted = await self._authorize(request, caller, attempt)
        attempt.identity, attempt.node = str(granted.identity), granted.node

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

    async def _authorize(self, request: CertificateRequest, caller: TokenCaller, attempt: _Attempt) -> Granted:
        if request.fault:
            attempt.check = "metadata"
            raise unauthenticated(request.fault)
        source, node_caller = self._placements.of(caller.cluster), as_node_caller(caller)
        try:
            index = source.index()
        except AppError:
            index = await source.look_again(node_caller)
        verdict = self._decide(request, node_caller, index)
        if isinstance(verdict, Refused) and verdict.step in _LIFTED_BY_NEWS:
            verdict = self._decide(request, node_caller, await source.look_again(node_caller))
        if isinstance(verdict, Refused):
            attempt.check, attempt.advice = verdict.step.value, verdict.advice
            raise unauthenticated(verdict.reason)
        return verdict

    def _decide(self, request: CertificateRequest, caller: NodeCaller, index: PlacementIndex) -> Granted | Refused:
        trust_domain = self._rules.trust_domain
        if request.impersonated is None:
            return authorize_own(caller, index=index, trust_domain=trust_domain)
        return authorize(
            caller,
            request.impersonated,
            index=index,
            trust_domain=trust_domain,
            trusted_accounts=self._rules.trusted_accounts,
        )

    def _refuse(self, attempt: _Attempt, error: AppError) -> None:
        if attempt.step is CertificateStep.AUTHENTICATE and error.code is ErrorCode.UNAUTHENTICATED:
            attempt.check, attempt.advice = _token_fault(error.diagnosis)
        refusal = Refusal(
            request_id=attempt.request_id,
            time=attempt.time,
            step=attempt.step.value,
            check=attempt.check,
            code=error.code.value,
            reason=_shown(error.diagnosis or error.detail),
            advice=attempt.advice,
            peer=attempt.peer,
            caller=attempt.account,
            node=attempt.node,
            pod=attempt.caller.pod_name if attempt.caller else "",
            identity=attempt.identity,
        )
        self._refusals.record(refusal)
        self._observer.refused(reason=refusal.label, code=refusal.code)
        who = refusal.caller or attempt.peer.rpartition(":")[0]
        if not self._log_lines.take((refusal.label, who, refusal.node), now=attempt.time.timestamp()):
            self._unlogged += 1
            return
        unlogged, self._unlogged = self._unlogged, 0
        fields: dict[str, Any] = {key: value for key, value in refusal.to_json().items() if value and key != "time"}
        request_id = fields.pop("requestId")
        _log.warning("certificate_refused", request_id=request_id, unlogged_before=unlogged, **fields)

    def _report(self, attempt: _Attempt, issued: Issued) -> None:
        seconds = (self._clock.now() - attempt.time).total_seconds()
        self._observer.issued(seconds=seconds, clamped=issued.grant.clamped)
        _log.info(
            "certificate_issued",
            request_id=attempt.request_id,
            identity=attempt.identity,
            caller=attempt.account,
            node=attempt.node,
            serial=issued.svid.serial_hex,
            not_after=issued.svid.not_after.isoformat(),
            ttl_granted=issued.grant.seconds,
            ttl_clamp=issued.grant.clamp.value,
            seconds=round(seconds, 6),
        )


def as_node_caller(caller: TokenCaller) -> NodeCaller:
    """A token's caller as placement knows it."""
    return NodeCaller(
        namespace=caller.namespace,
        service_account=caller.service_account,
        pod_name=caller.pod_name,
        pod_uid=caller.pod_uid,
        node_name=caller.node_name,
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


def _shown(text: str) -> str:
    """A caller's text as it may stand in a log line: short, printable ASCII, the rest percent-encoded."""
    return quote(text[:_MAX_SHOWN], safe=" !\"#$&'()*+,-./:;<=>?@[]^_`{|}~")


_TOKEN_ADVICE = {
    "missing": "give the node proxy a token: AUTH_TOKEN, or the projected token file it reads by default.",
    "malformed": "send exactly one authorization value, 'Bearer' and the token, without white space around it.",
    "too_long": "use a bound service-account token; this value is too long to be one.",
    "expired": "let the node proxy read its current token; kubelet renews projected tokens, `gatehouse token` mints.",
    "not_yet_valid": "compare the clocks of the token's issuer and of this host.",
    "audience": "ask for a token with one of this authority's audiences (default istio-ca).",
    "issuer": "configure the token's issuer, or use a token of a configured one.",
    "algorithm": "only RS, PS, ES and EdDSA signatures are believed, each with a key of its type.",
    "unknown_key": "check that the issuer's published keys (JWKS) contain the token's key id.",
    "signature": "the signature does not hold: the token was altered or comes from somebody else.",
    "claims": "use a token that is bound to the node proxy's pod, as Kubernetes projects it.",
}


def _token_fault(diagnosis: str) -> tuple[str, str]:
    """The closed reason at the start of a token diagnosis (`expired: ...`), and what to do about it."""
    reason = diagnosis.partition(":")[0]
    return (f"token_{reason}", _TOKEN_ADVICE[reason]) if reason in _TOKEN_ADVICE else ("token_claims", "")
