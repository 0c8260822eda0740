"""Every metric of Gatehouse, declared in one place.

Children write into memory-mapped files under PROMETHEUS_MULTIPROC_DIR, which the supervisor sets before they
start, and the supervisor adds them up for `/metrics`. A hot path counts plain integers of its own and hands the
totals to a `Tally` once a heartbeat, because a memory-mapped increment costs microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

_CERTIFICATE_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)

# Certificates.
CERTIFICATE_REQUESTS = Counter("gatehouse_certificate_requests", "Certificate requests received.")
CERTIFICATES_ISSUED = Counter("gatehouse_certificates_issued", "Certificates signed and recorded.")
CERTIFICATE_REFUSALS = Counter(
    "gatehouse_certificate_refusals", "Certificate requests that were refused.", ["reason", "code"]
)
CERTIFICATE_SECONDS = Histogram(
    "gatehouse_certificate_seconds", "Seconds from a certificate request to its answer.", buckets=_CERTIFICATE_SECONDS
)
CERTIFICATE_CLAMPS = Counter(
    "gatehouse_certificate_clamps", "Certificates that got less life than was asked for.", ["clamp"]
)
CERTIFICATES_SPREAD = Counter(
    "gatehouse_certificates_spread", "Certificates whose life was shortened so that renewals come apart."
)
CERTIFICATE_SHARED_KEYS = Counter(
    "gatehouse_certificate_shared_keys", "Certificates for a key that another identity or node holds, too."
)
ADMISSION_WAITING = Gauge(
    "gatehouse_admission_waiting",
    "Certificate requests that wait for their turn, by urgency.",
    ["urgency"],
    multiprocess_mode="livesum",
)
ADMISSION_SECONDS = Histogram(
    "gatehouse_admission_seconds",
    "Seconds until the turn of a certificate request that had to wait.",
    ["urgency"],
    buckets=_CERTIFICATE_SECONDS,
)
ADMISSION_SHED = Counter(
    "gatehouse_admission_shed", "Certificate requests that were refused for load, by urgency.", ["urgency"]
)
TOKENS_FROM_THE_FUTURE = Counter(
    "gatehouse_tokens_from_the_future", "Bearer tokens that begin later than now: the clocks of two hosts differ."
)
CLOCK_DRIFT = Gauge(
    "gatehouse_clock_drift_seconds",
    "By how much the authority's wall clock has moved against the time since its start.",
    multiprocess_mode="livemax",
)
CLOCK_WRONG = Gauge(
    "gatehouse_clock_wrong", "1 while nothing is issued because the wall clock was moved.", multiprocess_mode="livemax"
)
CONVERGE_BY = Gauge(
    "gatehouse_converge_by_timestamp_seconds",
    "Until when the mesh shall have renewed everything, as seconds since 1970; 0 when it need not.",
    multiprocess_mode="livemax",
)
AUTHORITY_EXPIRY = Gauge(
    "gatehouse_authority_expiry_timestamp_seconds",
    "When the certificate of an authority expires, as seconds since 1970.",
    ["role"],
    multiprocess_mode="livemax",  # an earlier process may have had one that lived longer
)

AUTHORITY_END = Gauge(
    "gatehouse_authority_end_timestamp_seconds",
    "When an authority's chain expires, as seconds since 1970; +Inf once it is retired.",
    ["authority", "role"],
    multiprocess_mode="livemax",
)
AUTHORITY_STATE = Gauge(
    "gatehouse_authority_state",
    "1 for the state that an authority is in.",
    ["authority", "role", "state"],
    multiprocess_mode="livemax",
)
ROOT_HOLDERS = Gauge(
    "gatehouse_root_holders",
    "Holders of unexpired certificates, and how many of them have received a root.",
    ["authority", "received"],
    multiprocess_mode="livemax",
)
BUNDLE_SEQUENCE = Gauge(
    "gatehouse_bundle_sequence", "How often the trust bundle has changed.", multiprocess_mode="livemax"
)
AUTHORITY_CHORES = Counter(
    "gatehouse_authority_chores", "What authorities did by themselves, or failed to.", ["chore", "outcome"]
)

TOKEN_AGE = Histogram(
    "gatehouse_token_age_seconds",
    "Age of bearer tokens when they are used, from their iat.",
    ["cluster"],
    buckets=(60, 600, 3_600, 6 * 3_600, 12 * 3_600, 86_400, 7 * 86_400),
)

# Placement: by cluster, because a gauge without labels would also exist, as zero, in processes that have none.
PLACEMENT_AGE = Gauge(
    "gatehouse_placement_age_seconds",
    "Seconds since the placement of a cluster was last read from its source.",
    ["cluster", "source"],
    multiprocess_mode="livemax",
)
PLACEMENT_WORKLOADS = Gauge(
    "gatehouse_placement_workloads",
    "Workloads in the placement of a cluster.",
    ["cluster", "source"],
    multiprocess_mode="livemax",
)
PLACEMENT_USABLE = Gauge(
    "gatehouse_placement_usable",
    "Whether the placement of a cluster is fresh enough to issue by it.",
    ["cluster", "source"],
    multiprocess_mode="livemin",
)
PLACEMENT_RELISTS = Counter(
    "gatehouse_placement_relists", "Lists of all pods of a cluster, after the first because a watch broke.", ["cluster"]
)
PLACEMENT_LOOKUPS = Counter(
    "gatehouse_placement_lookups", "Live looks at the pods of one node before a refusal.", ["cluster", "outcome"]
)
TOKEN_REVIEWS = Counter(
    "gatehouse_token_reviews", "Tokens that a cluster's API server was asked about.", ["cluster", "outcome"]
)
TOKEN_REVIEW_SECONDS = Histogram(
    "gatehouse_token_review_seconds", "Seconds of one TokenReview.", ["cluster"], buckets=_CERTIFICATE_SECONDS
)
PEER_BUNDLE_AGE = Gauge(
    "gatehouse_peer_bundle_age_seconds",
    "Seconds since the trust bundle of a peer was last had, at the last attempt.",
    ["peer"],
    multiprocess_mode="livemax",
)
PEER_BUNDLE_HELD = Gauge(
    "gatehouse_peer_bundle_held",
    "Whether a peer's trust bundle is held back, because it is not pinned or does not follow from the last.",
    ["peer"],
    multiprocess_mode="livemax",
)
TOKEN_KEYS_AGE = Gauge(
    "gatehouse_token_keys_age_seconds",
    "Seconds since the keys of an issuer of end users' tokens were last had, at the last attempt.",
    ["place"],
    multiprocess_mode="livemax",
)
TOKEN_KEY_FETCHES = Counter(
    "gatehouse_token_key_fetches", "Fetches of keys of end users' tokens, by outcome.", ["outcome"]
)
PARENT_REFUSED = Gauge(
    "gatehouse_parent_refused", "Whether what a parent gives is refused.", ["parent"], multiprocess_mode="livemax"
)

SIGNER_RESTARTS = Counter("gatehouse_signer_restarts", "Times that the signer process ended and was replaced.")

OVERDUE_RENEWALS = Gauge(
    "gatehouse_overdue_renewals",
    "Newest certificates of an identity on a node that are past half of their life and the margin, and not expired.",
    multiprocess_mode="livemax",
)
BUNDLE_COVERAGE = Gauge(
    "gatehouse_bundle_holders",
    "Pairs of identity and node whose newest certificate came with this trust bundle, by its fingerprint.",
    ["bundle"],
    multiprocess_mode="livemax",
)
QUARANTINES = Gauge("gatehouse_quarantines", "Quarantines that hold now.", multiprocess_mode="livemax")
CRL_NUMBER = Gauge(
    "gatehouse_crl_number", "Number of the newest revocation list.", ["authority"], multiprocess_mode="livemax"
)
CRL_NEXT_UPDATE = Gauge(
    "gatehouse_crl_next_update_timestamp_seconds",
    "By when a newer revocation list will have come, as seconds since 1970; +Inf once there will be none.",
    ["authority"],
    multiprocess_mode="livemax",
)
CRLS_UNPUBLISHED = Gauge(
    "gatehouse_crls_unpublished",
    "Authorities that should have a revocation list and have none of now.",
    multiprocess_mode="livemax",
)

LEDGER_ENTRIES = Gauge("gatehouse_ledger_entries", "Entries of the ledger that have an index.", multiprocess_mode="max")
LEDGER_UNNUMBERED = Gauge(
    "gatehouse_ledger_unnumbered_entries",
    "Entries that are stored and wait for their index.",
    multiprocess_mode="livemax",
)
LEDGER_CHECKPOINT_AGE = Gauge(
    "gatehouse_ledger_checkpoint_age_seconds",
    "Seconds since the newest checkpoint was signed.",
    multiprocess_mode="livemax",
)

GRPC_HANDLED = Counter(
    "grpc_server_handled", "RPCs of the certificate authority that ended.", ["grpc_service", "grpc_method", "grpc_code"]
)

# The ledger.
LEDGER_MODE = Gauge(
    "gatehouse_ledger_mode",
    "1 for the mode that the ledger of this authority works in.",
    ["mode"],
    multiprocess_mode="livemax",
)
JOURNAL_ENTRIES = Gauge(
    "gatehouse_journal_entries", "Ledger entries that wait in the journal.", multiprocess_mode="livemax"
)
JOURNAL_BYTES = Gauge("gatehouse_journal_bytes", "Bytes that wait in the journal.", multiprocess_mode="livemax")
DATABASE_AWAY_SECONDS = Gauge(
    "gatehouse_database_away_seconds",
    "Seconds since the journal stands in for the database; 0 while it does not.",
    multiprocess_mode="livemax",
)
JOURNAL_DRAINED = Counter("gatehouse_journal_drained", "Ledger entries moved from the journal into the database.")

# Administration.
SNAPSHOT_PUBLISHED = Gauge(
    "gatehouse_snapshot_published_number", "Number of the newest published snapshot.", multiprocess_mode="max"
)

API_REQUESTS = Counter(
    "gatehouse_api_requests",
    "Requests to the API, by the route's template; empty for none.",
    ["method", "route", "status"],
)
HTTP_REFUSALS = Counter(
    "gatehouse_http_refusals", "What HTTP listeners ended by themselves: too slow, too many, too large.", ["reason"]
)

SERVICES_KNOWN = Gauge(
    "gatehouse_services",
    "Services that their source knows (inventory.services.source).",
    ["source"],
    multiprocess_mode="livemax",
)
SERVICES_AGE = Gauge(
    "gatehouse_services_age_seconds",
    "Seconds since the source of services was last heard.",
    ["source"],
    multiprocess_mode="livemax",
)
SERVICES_FRESH = Gauge(
    "gatehouse_services_fresh",
    "1 while the source of services is not too old and what it knows is stored.",
    ["source"],
    multiprocess_mode="livemin",
)
SERVICES_LEFT_OUT = Gauge(
    "gatehouse_services_left_out",
    "Services and service entries of the cluster that make no sense and were left out.",
    ["source"],
    multiprocess_mode="livemax",
)

# Decisions.
CHECKS = Counter("gatehouse_checks", "Checks answered, by effect and reason.", ["effect", "reason"])
PROVIDER_QUESTIONS = Counter(
    "gatehouse_provider_questions",
    "Answers of the providers of CUSTOM policies, by outcome; all but allowed deny.",
    ["outcome", "provider"],
)
REGO_RESTARTS = Counter(
    "gatehouse_rego_child_restarts",
    "Children that run Rego and ended: crashed, out of memory, or killed for being late.",
)
SHADOW_VERDICTS = Counter(
    "gatehouse_shadow_verdicts",
    "Checks at targets where policies are tried out: what the whole set would decide with them, and which one differs.",
    ["verdict", "policy"],
)
GRANT_DECISIONS = Counter(
    "gatehouse_grant_decisions",
    "Checks that passed by a grant alone, by the reason for which they would have been denied.",
    ["lifted", "grant"],
)
CHECK_SECONDS = Counter("gatehouse_check_seconds", "Seconds of wall time spent in answering checks.")
# By worker, because a gauge without labels would also exist, as zero, in processes that are none.
SNAPSHOT_SERVED = Gauge(
    "gatehouse_snapshot_served_number",
    "Number of the snapshot that a worker serves.",
    ["worker"],
    multiprocess_mode="livemax",
)
SNAPSHOT_AGE = Gauge(
    "gatehouse_snapshot_age_seconds",
    "Seconds since a worker last heard from the authority.",
    ["worker"],
    multiprocess_mode="livemax",
)
SNAPSHOT_REFUSALS = Counter("gatehouse_snapshot_refusals", "Snapshots that a worker could not load.")

# Processes.
LOOP_LAG = Gauge(
    "gatehouse_event_loop_lag_seconds",
    "Greatest lag of an event loop in its last heartbeat.",
    multiprocess_mode="livemax",
)


class Tally:
    """Turns the running totals of a hot path into increments of a counter."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._seen: dict[tuple[str, ...], float] = {}

    def flush(self, totals: Mapping[Any, float]) -> None:
        """Count what came since the last flush; a key is the tuple of the counter's label values."""
        for labels, total in totals.items():
            grown = total - self._seen.get(labels, 0.0)
            if grown > 0:
                (self._counter.labels(*labels) if labels else self._counter).inc(grown)
                self._seen[labels] = total
