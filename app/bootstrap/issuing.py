"""Builds what issues certificates: the rules, the two ports of the certificate service, and what they need.

Both ports share guards, report and issuer; they differ in who calls and in what the connection proves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from app.authority.authorities.known_authorities import KnownAuthorities
from app.authority.certificates.admission import Admission
from app.authority.certificates.authenticate_caller import AuthenticateByCertificate, AuthenticateByToken
from app.authority.certificates.authorize_identity import AuthorizeIdentity
from app.authority.certificates.certificate_records import CertificateRecords, NoRevocations, Revocations
from app.authority.certificates.certificate_request import AccessRules
from app.authority.certificates.clock_guard import ClockGuard
from app.authority.certificates.converge_mesh import ConvergeMesh
from app.authority.certificates.create_certificate import Authenticate, CreateCertificate
from app.authority.certificates.issue_certificate import Issuer, IssuingRules
from app.authority.certificates.key_guard import KeyGuard, OnSharedKey
from app.authority.certificates.refusals import Refusals
from app.authority.certificates.report_certificate import ReportCertificate
from app.authority.certificates.request_guards import RequestGuards
from app.authority.certificates.serving_certificates import ListenerCertificate, ListenerCertificates
from app.authority.certificates.waiting_line import Urgency
from app.authority.placement.clusters import Clusters
from app.authority.ports import MonotonicClock, TokenAuthenticator
from app.ca.lifetimes import LifetimeRule, WorkloadLifetimes
from app.ca.profile import TtlGrant, WorkloadProfile
from app.errors import AppError, ErrorCode
from app.identity.spiffe import TrustDomain
from app.limits import CertificateLimits, Limits
from app.rpc.call import RpcObserver
from app.rpc.certificates import certificate_methods
from app.rpc.server import GrpcServer
from app.settings import Settings
from app.settings.issuing import CsrNames, IssuingSettings, OverLong, UnknownSigner, key_hash
from app.telemetry import metrics

_MAX_BLOCKED_FILE_BYTES = 16_777_216


class CertificateMetrics:
    """Counts certificates in the metrics; implements `CertificateObserver`."""

    def issued(self, *, seconds: float, grant: TtlGrant, key_is_shared: bool) -> None:
        """A certificate was issued."""
        metrics.CERTIFICATE_REQUESTS.inc()
        metrics.CERTIFICATES_ISSUED.inc()
        metrics.CERTIFICATE_SECONDS.observe(seconds)
        if grant.clamped:
            metrics.CERTIFICATE_CLAMPS.labels(grant.clamp.value).inc()
        if grant.spread_seconds:
            metrics.CERTIFICATES_SPREAD.inc()
        if key_is_shared:
            metrics.CERTIFICATE_SHARED_KEYS.inc()

    def refused(self, *, reason: str, code: str) -> None:
        """A request got none."""
        metrics.CERTIFICATE_REQUESTS.inc()
        metrics.CERTIFICATE_REFUSALS.labels(reason, code).inc()
        if reason == "token_not_yet_valid":
            metrics.TOKENS_FROM_THE_FUTURE.inc()


class AdmissionMetrics:
    """Counts turns in the metrics; implements `AdmissionObserver`."""

    def waited(self, urgency: Urgency, seconds: float) -> None:
        """A request that had to wait got its turn."""
        metrics.ADMISSION_SECONDS.labels(urgency.name.lower()).observe(seconds)

    def shed(self, urgency: Urgency) -> None:
        """A request was refused for load."""
        metrics.ADMISSION_SHED.labels(urgency.name.lower()).inc()


def issuing_rules(
    settings: Settings, clock_guard: ClockGuard, known: KnownAuthorities, converge: ConvergeMesh
) -> IssuingRules:
    """What the settings say about lifetimes and keys.

    Raises:
        AppError: `INVALID` when lifetimes contradict each other or the file of blocked keys cannot be read.
    """
    ca, limits = settings.ca, settings.limits.certificate
    keys = KeyGuard(
        blocked=blocked_keys(ca),
        authority_keys=known.keys,
        on_shared=OnSharedKey(ca.shared_keys.value),
        max_keys=limits.max_tracked_keys,
    )
    return IssuingRules(
        lifetimes=workload_lifetimes(ca, limits),
        keys=keys,
        clock_guard=clock_guard,
        converge_by=converge.deadline,
    )


def workload_lifetimes(settings: IssuingSettings, limits: CertificateLimits) -> WorkloadLifetimes:
    """The lifetimes that the settings and the limits give.

    Raises:
        AppError: `INVALID` when they contradict each other.
    """
    rules = [
        LifetimeRule(
            namespace=rule.namespace,
            service_account=rule.service_account,
            default_seconds=rule.default,
            minimum_seconds=rule.minimum,
            maximum_seconds=rule.maximum,
        )
        for rule in settings.lifetimes
    ]
    return WorkloadLifetimes(
        WorkloadProfile.from_limits(limits),
        rules,
        refuse_over_long=settings.over_long is OverLong.REFUSE,
        spread_fraction=settings.spread_fraction if settings.spread_renewals else 0.0,
    )


def blocked_keys(settings: IssuingSettings) -> frozenset[bytes]:
    """The blocked keys of the settings and of their file.

    Raises:
        AppError: `INVALID` when the file cannot be read or has a line that is no hash.
    """
    texts = list(settings.blocked_keys)
    if settings.blocked_keys_file is not None:
        texts += _lines(settings.blocked_keys_file)
    return frozenset(bytes.fromhex(text) for text in texts)


def _lines(file: Path) -> list[str]:
    try:
        if file.stat().st_size > _MAX_BLOCKED_FILE_BYTES:
            raise AppError(ErrorCode.INVALID, f"settings: ca.blocked_keys_file: {file} is larger than 16 MiB")
        lines = file.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not ASCII text"
        raise AppError(ErrorCode.INVALID, f"settings: ca.blocked_keys_file: cannot read {file}: {reason}") from error
    hashes = []
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        try:
            hashes += [key_hash(text)] if text else []
        except ValueError as error:
            raise AppError(ErrorCode.INVALID, f"settings: ca.blocked_keys_file: line {number} {error}") from None
    return hashes


def access_rules(settings: Settings, clusters: Clusters) -> AccessRules:
    """Who may ask, and what a request may say."""
    return AccessRules(
        trust_domain=TrustDomain.parse(settings.trust_domain),
        trusted_accounts=frozenset(settings.tokens.trusted_node_accounts),
        clusters=clusters,
        csr_must_agree=settings.ca.csr_names is CsrNames.REFUSE,
        refuse_cert_signer=settings.ca.cert_signer is UnknownSigner.REFUSE,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificatePorts:
    """The servers of the certificate service, for bearer tokens and client certificates.

    `guards` bound how often anybody may ask, `admission` hands out turns; both are shared by the two.
    """

    tokens: GrpcServer
    mutual_tls: GrpcServer
    guards: RequestGuards
    admission: Admission

    @property
    def servers(self) -> tuple[GrpcServer, ...]:
        """Both."""
        return self.tokens, self.mutual_tls


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateParts:
    """What the certificate service is made of; `records`, `known` and `revocations` judge client certificates."""

    authenticator: TokenAuthenticator
    authorize: AuthorizeIdentity
    records: CertificateRecords
    known: KnownAuthorities
    issuer: Issuer
    refusals: Refusals
    rules: AccessRules
    revocations: Revocations = field(default_factory=NoRevocations)


def certificate_ports(
    parts: CertificateParts, limits: Limits, *, clock: MonotonicClock, observe: RpcObserver
) -> CertificatePorts:
    """The servers, not listening yet."""
    admission = Admission(limits.admission, clock, AdmissionMetrics())
    guards = RequestGuards(limits.certificate, clock, admission)
    report = ReportCertificate(parts.refusals, limits=limits.certificate, clock=clock, observer=CertificateMetrics())

    def create(authenticate: Authenticate) -> CreateCertificate:
        return CreateCertificate(
            authenticate=authenticate,
            authorize=parts.authorize,
            guards=guards,
            issuer=parts.issuer,
            report=report,
            rules=parts.rules,
            limits=limits.certificate,
            clock=clock,
        )

    by_token = create(AuthenticateByToken(parts.authenticator, parts.rules.clusters, limits.certificate))
    by_certificate = create(
        AuthenticateByCertificate(parts.records, issuers=parts.known, revocations=parts.revocations, rules=parts.rules)
    )
    return CertificatePorts(
        tokens=GrpcServer(certificate_methods(by_token), limits.ca_grpc, observe=observe),
        mutual_tls=GrpcServer(
            certificate_methods(by_certificate, mutual_tls=True), limits.ca_mtls_grpc, observe=observe
        ),
        guards=guards,
        admission=admission,
    )


def with_client_roots(certificates: ListenerCertificates, issuer: Issuer) -> Callable[[], ListenerCertificate]:
    """The listener's certificate together with the roots of now, for `server_credentials`.

    A changed bundle makes new credentials, and with them new keys for session tickets: no session that was made under
    a root outlives its removal by resumption.
    """
    last: tuple[ListenerCertificate, str, ListenerCertificate] | None = None

    def current() -> ListenerCertificate:
        nonlocal last
        certificate, pem = certificates.current(), issuer.state.bundle.pem
        if last is None or last[0] is not certificate or last[1] != pem:
            last = (certificate, pem, replace(certificate, client_roots_pem=pem.encode("ascii")))
        return last[2]

    return current


def show_waiting(admission: Admission) -> None:
    """Put how many requests wait now into the metrics."""
    for urgency in Urgency:
        metrics.ADMISSION_WAITING.labels(urgency.name.lower()).set(admission.waiting(urgency))


def show_clock(issuer: Issuer, converge: ConvergeMesh) -> None:
    """Put the clock and the deadline of now into the metrics."""
    guard, deadline = issuer.rules.clock_guard, converge.deadline()
    metrics.CLOCK_DRIFT.set(guard.drift_seconds)
    metrics.CLOCK_WRONG.set(0 if guard.is_right else 1)
    metrics.CONVERGE_BY.set(deadline.timestamp() if deadline else 0)
