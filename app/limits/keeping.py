"""Bounds of what is stored, and of the processes."""

from __future__ import annotations

from dataclasses import dataclass


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
