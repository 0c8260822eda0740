"""Every bound of Gatehouse, by name, with its unit: the one place to look for "how much is too much".

Plain values that each room gets handed; `app.settings` lets an operator change them. Durations are seconds,
sizes are bytes. Why each default is what it is stands in docs/operations.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from app.limits.deciding import (
    CheckLimits,
    EffectLimits,
    PolicyLimits,
    RegoLimits,
    TokenLimits,
)
from app.limits.issuing import (
    AdmissionLimits,
    AuthorityLimits,
    CertificateLimits,
    KubernetesLimits,
    ParentLimits,
    QuarantineLimits,
    SignerLimits,
)
from app.limits.keeping import (
    AdministrationLimits,
    JournalLimits,
    LedgerLimits,
    ProcessLimits,
    StorageLimits,
)
from app.limits.transports import (
    FetchLimits,
    GrpcLimits,
    HttpLimits,
)

__all__ = [
    "AdministrationLimits",
    "AdmissionLimits",
    "AuthorityLimits",
    "CertificateLimits",
    "CheckLimits",
    "EffectLimits",
    "FetchLimits",
    "GrpcLimits",
    "HttpLimits",
    "JournalLimits",
    "KubernetesLimits",
    "LedgerLimits",
    "Limits",
    "ParentLimits",
    "PolicyLimits",
    "ProcessLimits",
    "QuarantineLimits",
    "RegoLimits",
    "SignerLimits",
    "StorageLimits",
    "TokenLimits",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """All of them."""

    ca_grpc: GrpcLimits = field(
        default_factory=lambda: GrpcLimits(
            max_message_bytes=65_536,
            max_connections=5_000,
            max_concurrent_streams=64,
            max_concurrent_rpcs=4_000,
            max_pending_rpcs=10_000,
            rpc_budget_seconds=10.0,
            max_connection_idle_seconds=600.0,
        )
    )
    ca_mtls_grpc: GrpcLimits = field(
        default_factory=lambda: GrpcLimits(
            max_message_bytes=65_536,
            max_connections=2_000,
            max_concurrent_streams=16,
            max_concurrent_rpcs=1_000,
            max_pending_rpcs=4_000,
            rpc_budget_seconds=10.0,
            max_connection_idle_seconds=60.0,
            max_connection_age_seconds=120.0,  # how long a connection outlives the root that it was verified with
        )
    )
    check_grpc: GrpcLimits = field(
        default_factory=lambda: GrpcLimits(
            max_message_bytes=2_097_152,  # above check.max_body_bytes: gRPC's own refusal is an error, not a denial
            max_connections=2_000,
            max_concurrent_streams=1_000,
            max_concurrent_rpcs=4_000,
            max_pending_rpcs=4_000,
            rpc_budget_seconds=0.15,
            max_connection_age_seconds=8.0,  # how connections leave a draining worker: docs/adr/0003-drain.md
            max_connection_age_grace_seconds=5.0,
            max_metadata_bytes=8_192,
            absolute_max_metadata_bytes=16_384,
        )
    )
    http: HttpLimits = field(default_factory=HttpLimits)
    check_http: HttpLimits = field(
        default_factory=lambda: HttpLimits(
            max_header_bytes=196_608,  # above the largest head that Envoy takes by default settings of Istio
            max_body_bytes=1_048_576,
            request_budget_seconds=1.0,
            keep_alive_seconds=120.0,  # above the idle time of the proxy's pool, so that it is the one who closes
            max_connections=2_000,
            max_connections_per_address=2_000,  # all of them may come from one proxy
            max_connection_age_seconds=60.0,
            backlog=2_048,
        )
    )
    fetch: FetchLimits = field(default_factory=FetchLimits)
    parent: ParentLimits = field(default_factory=ParentLimits)
    certificate: CertificateLimits = field(default_factory=CertificateLimits)
    admission: AdmissionLimits = field(default_factory=AdmissionLimits)
    authority: AuthorityLimits = field(default_factory=AuthorityLimits)
    kubernetes: KubernetesLimits = field(default_factory=KubernetesLimits)
    policy: PolicyLimits = field(default_factory=PolicyLimits)
    check: CheckLimits = field(default_factory=CheckLimits)
    effects: EffectLimits = field(default_factory=EffectLimits)
    tokens: TokenLimits = field(default_factory=TokenLimits)
    rego: RegoLimits = field(default_factory=RegoLimits)
    storage: StorageLimits = field(default_factory=StorageLimits)
    journal: JournalLimits = field(default_factory=JournalLimits)
    ledger: LedgerLimits = field(default_factory=LedgerLimits)
    administration: AdministrationLimits = field(default_factory=AdministrationLimits)
    quarantine: QuarantineLimits = field(default_factory=QuarantineLimits)
    process: ProcessLimits = field(default_factory=ProcessLimits)
    signer: SignerLimits = field(default_factory=SignerLimits)
