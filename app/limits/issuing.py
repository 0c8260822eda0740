"""Bounds of certificates and authorities, and of what they are decided from."""

from __future__ import annotations

from dataclasses import dataclass


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
    stall_seconds: float = 90.0  # no event and no bookmark (one a minute): the connection may be dead
    relist_seconds: float = 150.0  # nothing heard for so long, though watches open: listed again
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
