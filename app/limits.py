"""Every bound of Gatehouse, by name, with its unit: the one place to look for "how much is too much".

Plain values that each room gets handed; `app.settings` lets an operator change them. Durations are seconds,
sizes are bytes. Why each default is what it is stands in docs/operations.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcLimits:
    """Bounds of one gRPC listener."""

    max_message_bytes: int
    max_connections: int  # per listener and process
    max_concurrent_streams: int  # per connection
    max_concurrent_rpcs: int  # per process; the last resort behind the limiters of the use cases
    rpc_budget_seconds: float  # our own deadline, because the clients set none
    min_ping_interval_seconds: float = 10.0
    max_ping_strikes: int = 5
    keepalive_seconds: float = 60.0
    keepalive_timeout_seconds: float = 10.0
    max_connection_idle_seconds: float = 0.0  # 0: off
    max_connection_age_seconds: float = 600.0
    max_connection_age_grace_seconds: float = 30.0
    handshake_timeout_seconds: float = 5.0
    max_metadata_bytes: int = 16_384  # soft
    absolute_max_metadata_bytes: int = 32_768  # hard


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """Bounds of one HTTP listener."""

    max_header_bytes: int = 16_384
    max_body_bytes: int = 262_144
    max_import_bytes: int = 10_485_760  # bodies of batch apply and inventory import
    header_timeout_seconds: float = 5.0  # from the connection's first moment to the end of the headers
    body_min_bytes_per_second: int = 1_024
    body_grace_seconds: float = 5.0
    request_budget_seconds: float = 30.0
    keep_alive_seconds: float = 5.0
    max_connections: int = 500
    max_connections_per_address: int = 200
    max_connection_age_seconds: float = 600.0  # then an answer ends its connection
    backlog: int = 512
    shutdown_seconds: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchLimits:
    """Bounds of one request to a server that the settings name: a peer's bundle, a parent."""

    max_bytes: int = 1_048_576
    max_header_bytes: int = 16_384
    timeout_seconds: float = 10.0  # from resolving the name to the last byte
    max_redirects: int = 3  # temporary ones on the same host


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentLimits:
    """Bounds of following a parent in files, a file drop, and the bundles of peers."""

    poll_seconds: float = 1.0  # between two looks at files
    settle_seconds: float = 10.0  # a set that does not hold together may be half-written for so long
    retry_seconds: float = 30.0  # after a refusal or a failed fetch that may pass by itself
    peer_refresh_min_seconds: float = 30.0  # whatever a peer hints
    peer_refresh_max_seconds: float = 3_600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateLimits:
    """Bounds of what is asked of the certificate authority, and of what it gives."""

    max_csr_bytes: int = 16_384
    max_sans: int = 8
    default_ttl_seconds: int = 86_400
    max_ttl_seconds: int = 90 * 86_400
    min_ttl_seconds: int = 300  # never below twice the backdate: a ztunnel would ask in a tight loop
    backdate_seconds: int = 120
    min_issuer_life_seconds: int = 3_600  # an issuer with less left refuses to issue
    node_rate_per_second: float = 50.0
    node_burst: int = 200
    identity_rate_per_second: float = 1.0
    identity_burst: int = 10
    max_tracked_callers: int = 50_000
    early_renewals: int = 20  # of one identity by one node in the window, long before it is due; more is a loop
    early_window_seconds: float = 600.0
    max_clock_drift_seconds: float = 300.0  # wall clock against the time since the start; beyond, nothing is issued
    max_tracked_keys: int = 100_000  # certified keys that are compared, newest kept
    converge_poll_seconds: float = 2.0  # how soon replicas notice that the mesh shall converge
    max_in_flight: int = 2_000  # issuance jobs of the process
    max_job_seconds: float = 30.0  # of one job, from intent to record; the call has given up long before
    inventory_refresh_seconds: float = 0.5
    inventory_max_age_seconds: float = 60.0  # older placement data gives no rights
    refusal_log_per_second: float = 5.0  # log lines a caller and reason
    refusal_log_burst: int = 20
    max_token_bytes: int = 12_288  # below GrpcLimits.max_metadata_bytes: above that gRPC rejects at random
    token_cache_entries: int = 10_000
    token_leeway_seconds: int = 10
    jwks_max_bytes: int = 262_144
    jwks_timeout_seconds: float = 3.0
    jwks_refresh_seconds: float = 300.0
    jwks_min_refetch_seconds: float = 10.0  # between two refetches for an unknown key id
    jwks_stale_seconds: float = 86_400.0  # how long keys serve that cannot be refreshed
    ban_max_age_seconds: float = 3_600.0  # how long the bans of nodes serve that were read last
    max_kept_refusals: int = 10_000  # for `gatehouse ca explain REQUEST`


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionLimits:
    """Bounds of how many certificate requests are worked on at once, and of how the others wait for their turn."""

    max_at_work: int = 16  # requests that are worked on at once
    max_waiting: int = 3_000
    max_wait_seconds: float = 7.0  # whose turn cannot come by then is refused at once
    near_end_seconds: float = 900.0  # a certificate with less life left is urgent
    passed_over_turns: int = 8  # after so many turns of others in a row the less urgent get one


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityLimits:
    """Bounds of how authorities change over time."""

    poll_seconds: float = 1.0  # how soon a change by another replica is taken over
    chore_seconds: float = 10.0  # between two looks at what is due by itself
    settle_seconds: float = 45.0  # until a certificate that was begun is surely on record: above max_job_seconds
    propagation_seconds: float = 60.0  # until whoever got a certificate surely goes by the bundle beside it
    lease_seconds: float = 3_600.0  # how long a replica issues without a word from the database
    min_lives_left: int = 3  # of the longest certificate, that an issuing authority must have left to be activated
    retry_max_seconds: float = 3_600.0  # between two attempts to have a successor signed
    act_expiry_seconds: float = 86_400.0  # until when a second administrator may confirm an act
    max_open_acts: int = 100
    max_kept_acts: int = 200  # that `gatehouse ca pending` shows
    max_listed_nodes: int = 100  # nodes without a root, of one authority


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesLimits:
    """Bounds of what is asked of a Kubernetes API server, and of what it answers."""

    connect_seconds: float = 5.0
    request_seconds: float = 5.0  # of one small request: a pod, the pods of a node, keys
    page_seconds: float = 30.0  # of one page of the list of all pods
    page_pods: int = 500
    max_page_bytes: int = 67_108_864
    max_answer_bytes: int = 4_194_304  # of one small answer
    max_event_bytes: int = 4_194_304  # of one line of a watch; an object in etcd is at most 1.5 MiB
    max_pods: int = 250_000  # of a cluster
    slice_seconds: float = 0.003  # how long reading may hold up the event loop
    watch_seconds: float = 300.0  # then a watch is opened anew, as the API server's load balancing wants it
    stall_seconds: float = 90.0  # no event and no bookmark (one a minute): the connection is dead
    pods_max_age_seconds: float = 300.0  # since the last event, bookmark or list; older placement gives no rights
    max_services: int = 100_000  # of a cluster, of each kind
    services_max_age_seconds: float = 300.0  # likewise; older services stay in force, and an alarm says so
    services_gather_seconds: float = 0.5  # from a change to its being stored, so that many are one
    services_settle_seconds: float = 120.0  # behind what another replica stored for so long: versions went back
    watch_retry_min_seconds: float = 0.5
    watch_retry_max_seconds: float = 30.0
    lookup_pause_seconds: float = 1.0  # between two live looks at the pods of one node
    max_lookups: int = 128  # live looks at once, waiting ones too
    review_seconds: float = 3.0  # of one TokenReview
    max_reviews: int = 64  # TokenReviews at once
    max_queued_reviews: int = 2_000  # waiting for one of those
    review_cache_seconds: float = 60.0  # how long a token that was revoked may go on
    review_refused_seconds: float = 5.0  # how long a refused token is refused without asking
    review_cache_entries: int = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyLimits:
    """Bounds of policy documents, the same when they are written and when they are loaded."""

    max_document_bytes: int = 262_144
    max_documents: int = 200_000
    max_rules: int = 512
    max_items: int = 512  # entries of one list in a rule
    max_value_chars: int = 1_024
    max_target_refs: int = 16
    max_nesting: int = 32
    max_yaml_nodes: int = 200_000
    max_batch_documents: int = 20_000
    max_readings: int = 64  # of one request under hardened matching
    max_page_items: int = 1_000
    max_page_bytes: int = 16_777_216  # documents of one page; it ends after the one that passes this
    max_reason_chars: int = 1_024
    max_lint_comparisons: int = 500_000  # of two rules of a few values, while looking for shadowed ones
    max_lint_findings: int = 1_000
    # Questions about all requests (who-can, what-can, diff); over a bound is an error, never a part of the answer.
    max_atom_states: int = 200_000  # walked to tell the values of one field apart
    max_atoms: int = 20_000  # of one field
    max_question_steps: int = 2_000_000  # rules followed from one field to the next, at one target
    max_question_classes: int = 5_000  # of one answer
    max_question_targets: int = 10_000
    max_waiting_questions: int = 4  # behind the one that is being answered; lint and projection wait in the same line
    question_seconds: float = 25.0  # below http.request_budget_seconds; the child that answers is killed then
    question_memory_bytes: int = 2_147_483_648  # that the child may map, with the sets that it keeps
    question_start_seconds: float = 10.0
    max_grant_seconds: int = 30 * 86_400  # of a grant, from notBefore to expiresAt
    max_break_glass_seconds: int = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLimits:
    """Bounds of verifying tokens of end users, and of fetching the keys for it."""

    max_token_bytes: int = 16_384
    max_tokens: int = 8  # of one request, for one issuer
    max_rules_tried: int = 8  # rules of one issuer that one request is tried by, where it fails
    max_keys_tried: int = 8  # keys of one issuer that one signature is tried with, where no key id chooses
    max_nesting: int = 32  # of header and payload
    leeway_seconds: float = 60.0  # after exp and before nbf, as Envoy's jwt_authn allows
    cache_entries: int = 10_000  # verified tokens that a worker remembers
    cache_bytes: int = 16_777_216  # of all of them, as they were sent; their claims take up to twenty times as much
    key_set_entries: int = 1_024  # parsed key sets that a worker remembers
    max_output_header_bytes: int = 8_192  # a claim that is longer is not sent upstream
    max_hints: int = 64  # key sources that a worker asks to be fetched again, in one report
    max_sources: int = 256  # different places where keys are fetched
    max_jwks_bytes: int = 262_144
    fetch_seconds: float = 5.0  # of one fetch, where a rule does not say less
    max_fetches: int = 8  # at once
    refresh_seconds: float = 300.0
    retry_seconds: float = 30.0  # after a failed fetch
    min_refetch_seconds: float = 10.0  # between two fetches from one place, whatever workers ask for
    stale_seconds: float = 86_400.0  # how long keys serve that cannot be refreshed


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckLimits:
    """Bounds of the decision worker."""

    max_queue_seconds: float = 0.1  # Checks that wait for longer, and for no short while, are denied as OVERLOADED
    max_path_bytes: int = 65_536
    max_header_count: int = 1_000
    max_header_bytes: int = 131_072
    max_body_bytes: int = 1_048_576  # that the proxy sent; check_grpc.max_message_bytes stays above it
    provider_budget_seconds: float = 0.14  # from a Check's arrival until providers must have answered
    max_provider_questions: int = 256  # in flight; a Check that would need more is denied as OVERLOADED
    max_snapshot_bytes: int = 1_073_741_824
    max_part_bytes: int = 67_108_864
    compile_slice_seconds: float = 0.003
    stale_after_seconds: float = 300.0  # serve and raise an alarm
    deny_after_seconds: float = 0.0  # 0: never deny for age; else SNAPSHOT_TOO_OLD
    long_poll_seconds: float = 25.0
    status_interval_seconds: float = 1.0
    link_timeout_seconds: float = 5.0
    link_backoff_max_seconds: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectLimits:
    """Bounds of what one answer to a Check may do besides allowing or denying."""

    max_items: int = 64  # headers and query parameters together
    max_bytes: int = 32_768  # of all of it: names, values, body and metadata, counted in characters
    max_metadata_depth: int = 16  # levels of the dynamic metadata; Envoy reads no message deeper than 100


@dataclass(frozen=True, slots=True, kw_only=True)
class RegoLimits:
    """Bounds of Rego modules, of the child process that runs them, and of an OPA server that is asked instead."""

    max_module_bytes: int = 131_072  # the text of one module
    max_modules: int = 1_000  # of a set
    max_findings: int = 20  # of one check of modules
    max_input_bytes: int = 1_500_000  # the input document as JSON: the largest CheckRequest and what is parsed from it
    max_input_fields: int = 1_000  # query parameters, form fields or parts of one request
    max_body_nesting: int = 32
    max_result_bytes: int = 262_144  # the value of a rule as JSON
    memory_bytes: int = 536_870_912  # address space that a child may take after its start, and what may be resident
    start_seconds: float = 10.0  # until a child has loaded its library and given up its rights
    load_seconds: float = 10.0  # to compile all modules of a set
    evaluate_seconds: float = 0.1  # of one rule; a child that takes longer is killed
    max_rules_compiled: int = 256  # rules asked for of one selection of modules, each compiled once and kept
    max_selections: int = 64  # of modules, by providers, that one child holds
    max_waiting: int = 256  # questions that wait for the child or for a connection to OPA
    child_restart_burst: int = 5
    child_restart_window_seconds: float = 60.0  # more restarts than the burst in the window: nothing is evaluated
    opa_connections: int = 4  # kept alive, of one worker to one OPA server
    opa_connect_seconds: float = 1.0
    opa_administration_seconds: float = 5.0
    bundle_wait_seconds: float = 20.0  # longest poll of an OPA for its next bundle, below http.request_budget_seconds
    max_bundle_bytes: int = 67_108_864  # unpacked


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageLimits:
    """Bounds of the database and of its group commit."""

    pool_size: int = 5
    pool_timeout_seconds: float = 5.0
    statement_timeout_seconds: float = 5.0
    lock_timeout_seconds: float = 3.0
    idle_in_transaction_seconds: float = 10.0
    busy_timeout_seconds: float = 5.0
    max_queued_writes: int = 10_000
    max_batch_writes: int = 256  # units of work that share one commit
    gather_seconds: float = 0.005  # pause between two commits while units queue up; a lone unit never waits
    max_queued_reads: int = 1_000
    change_poll_seconds: float = 0.3  # PostgreSQL: how soon a change by another replica is noticed
    stall_seconds: float = 2.0  # a commit that takes longer: intents are refused at once instead of queueing behind it


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalLimits:
    """Bounds of the replica's journal (`ledger.mode: available`)."""

    max_entries: int = 1_000_000
    max_bytes: int = 1_073_741_824
    segment_bytes: int = 16_777_216  # a file is ended when it has reached this
    patience_seconds: float = 2.0  # a database that takes longer to store an entry counts as away
    probe_seconds: float = 1.0  # how often a database that is away is tried again
    drain_batch_entries: int = 500
    drain_seconds: float = 10.0  # for one batch of the drain


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerLimits:
    """Bounds of numbering the ledger and of checking it."""

    max_unnumbered: int = 100_000  # entries that wait for an index; more, and no new certificate is begun
    max_turn_entries: int = 1_024  # numbered in one transaction
    tick_seconds: float = 0.5  # how long numbering waits when nothing tells it that there are entries
    gather_seconds: float = 0.2  # pause before numbering, so that more entries share a checkpoint
    kept_checkpoints: int = 1_000  # all of the newest; of older ones, one an hour for 30 days, then one a day
    thin_seconds: float = 60.0  # between two times of forgetting old checkpoints
    checked_at_start: int = 200_000  # entries whose hashes are read at the start; `gatehouse audit fsck` reads all
    max_page_items: int = 1_000
    max_export_page: int = 256  # entries that an export holds in memory


@dataclass(frozen=True, slots=True, kw_only=True)
class AdministrationLimits:
    """Bounds of what administrators send, and of what is kept to recognise them."""

    max_inventory_items: int = 200_000  # of one inventory document, all kinds together
    min_lease_seconds: float = 10.0  # of a pushed inventory
    max_lease_seconds: float = 604_800.0
    max_reported_errors: int = 100  # of one document or batch; the rest is counted
    token_cache_seconds: float = 5.0  # how long a revocation by another replica may go unnoticed
    token_cache_entries: int = 10_000
    write_attempts: int = 3  # of a change that was planned on a state which then moved on


@dataclass(frozen=True, slots=True, kw_only=True)
class SignerLimits:
    """Bounds of what the authority process asks of its signer."""

    max_batch: int = 256  # certificates in one message
    max_waiting: int = 4_096  # certificates that wait for the signer
    max_attempts: int = 3  # signers that are asked about one certificate, when they end under it
    request_seconds: float = 5.0  # until an unanswered question is given up and the signer replaced
    start_seconds: float = 15.0
    reopen_seconds: float = 1.0  # between two tries to open a key that is away


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineLimits:
    """Bounds of quarantines, revocation lists, and questions about certificates."""

    refresh_seconds: float = 10.0  # between two looks for certificates of who is in quarantine
    max_revoked: int = 50_000  # certificates of one quarantine in a snapshot, of one issuer in a CRL
    max_wait_seconds: float = 30.0  # of a request for a receipt, or for new certificates
    crl_lifetime_seconds: int = 86_400  # from thisUpdate to nextUpdate
    crl_renew_seconds: int = 43_200  # a CRL is made anew when less than this is left
    max_overdue_listed: int = 1_000  # overdue renewals in one answer


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessLimits:
    """Bounds of starting, watching and draining processes."""

    start_seconds: float = 30.0  # until a child must have reported ready
    heartbeat_seconds: float = 0.5
    heartbeat_timeout_seconds: float = 3.5  # a child that is silent for longer is killed and replaced
    drain_min_seconds: float = 5.0  # answered after SIGTERM before GOAWAY
    drain_max_seconds: float = 15.0  # then the process is killed
    restart_burst: int = 5
    restart_window_seconds: float = 60.0  # more restarts than the burst in the window: back off
    restart_backoff_max_seconds: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """All of them."""

    ca_grpc: GrpcLimits = field(
        default_factory=lambda: GrpcLimits(
            max_message_bytes=65_536,
            max_connections=5_000,
            max_concurrent_streams=64,
            max_concurrent_rpcs=4_000,
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
