"""The authorities over time: built from settings, opened before anything listens."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta

import structlog
from cryptography import x509

from app.authority.authorities.adopt_parent import AdoptParent
from app.authority.authorities.adopt_peer_roots import AdoptPeerRoots
from app.authority.authorities.authorities import Authorities
from app.authority.authorities.authority_administration import AuthorityAdministration
from app.authority.authorities.authority_chores import AuthorityChores
from app.authority.authorities.authority_ports import (
    AuthorityState,
    KeyKeeper,
    ParentFiles,
    PublishedBundle,
    UpstreamAuthority,
)
from app.authority.authorities.authority_set import AuthoritySet
from app.authority.authorities.change_authority import ChangeAuthority
from app.authority.authorities.describe_authorities import DescribeAuthorities
from app.authority.authorities.export_root import ExportRoot
from app.authority.authorities.make_authorities import AuthorityMaker, Lifetimes
from app.authority.authorities.open_authorities import open_authorities
from app.authority.authorities.pending_acts import PendingActs
from app.authority.authorities.prepare_authority import PrepareAuthority
from app.authority.certificates.clock_guard import ClockGuard
from app.bootstrap.state import is_first_run, replica_id
from app.ca.lifecycle import Fleet
from app.ca.profile import max_workload_lifetime
from app.identity.spiffe import TrustDomain
from app.settings import Settings
from app.storage.database import Database
from app.telemetry import metrics

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityParts:
    """The use cases around authorities."""

    authorities: Authorities
    chores: AuthorityChores
    administration: AuthorityAdministration
    parent: AdoptParent
    peers: AdoptPeerRoots


async def open_authority_parts(
    settings: Settings,
    database: Database,
    keeper: KeyKeeper,
    clock: ClockGuard,
    stack: AsyncExitStack,
    *,
    parent: ParentFiles | None = None,
    upstream: UpstreamAuthority | None = None,
) -> AuthorityParts:
    """Open the stored authorities, or make the first; `parent` or `upstream` are whose they are, where not our own.

    Raises:
        AppError: as `open_authorities`.
    """
    maker = AuthorityMaker(
        keeper,
        trust_domain=TrustDomain.parse(settings.trust_domain),
        max_lifetime=max_workload_lifetime(settings.limits.certificate),
        lifetimes=Lifetimes(
            root=timedelta(days=settings.authorities.root_days),
            issuing=timedelta(days=settings.authorities.issuing_days),
        ),
        upstream=upstream,
    )
    observer = _Metrics()
    authorities = Authorities(
        database,
        maker,
        clock=clock,
        longest_life=timedelta(seconds=settings.limits.certificate.max_ttl_seconds),
        backdate=timedelta(seconds=settings.limits.certificate.backdate_seconds),
        limits=settings.limits.authority,
        replica_id=replica_id(settings),
        observer=observer,
    )
    if await open_authorities(authorities, create=is_first_run(settings), parent=parent):
        _log.info("authorities_created", trust_domain=settings.trust_domain, active=authorities.issuing.authority.id)
    stack.push_async_callback(authorities.close)
    acts = PendingActs(authorities)
    return AuthorityParts(
        authorities=authorities,
        chores=AuthorityChores(
            authorities,
            prepare_at=settings.authorities.prepare_at,
            automatic=settings.authorities.automatic,
            observer=observer,
        ),
        administration=AuthorityAdministration(
            change=ChangeAuthority(authorities, acts),
            prepare=PrepareAuthority(authorities),
            describe=DescribeAuthorities(authorities),
            acts=acts,
            export=ExportRoot(authorities, acts),
        ),
        parent=AdoptParent(authorities),
        peers=AdoptPeerRoots(authorities),
    )


class _Metrics:
    """Implements `AuthorityObserver` and `ChoreObserver` with metrics."""

    def taken_over(self, known: AuthoritySet, published: PublishedBundle) -> None:
        """The ends and states of all authorities, and the bundle that they make."""
        metrics.BUNDLE_SEQUENCE.set(published.sequence)
        active = known.active()
        if active is not None:
            metrics.AUTHORITY_EXPIRY.labels("issuing").set(_end(known.chain(active)))
        metrics.AUTHORITY_EXPIRY.labels("root").set(_end(published.bundle.roots))
        for row in known.rows:
            chain = known.chain(row)
            is_over = row.state == AuthorityState.RETIRED or not chain
            metrics.AUTHORITY_END.labels(row.id, row.role).set(math.inf if is_over else _end(chain))
            for state in AuthorityState:
                metrics.AUTHORITY_STATE.labels(row.id, row.role, state.value).set(state.value == row.state)

    def fleet_seen(self, fleet: Fleet) -> None:
        """Who has received which root."""
        for root_id, coverage in fleet.coverage.items():
            metrics.ROOT_HOLDERS.labels(root_id, "yes").set(coverage.covered)
            metrics.ROOT_HOLDERS.labels(root_id, "no").set(coverage.holders - coverage.covered)

    def chore_done(self, chore: str) -> None:
        """One was done."""
        metrics.AUTHORITY_CHORES.labels(chore, "done").inc()

    def chore_failed(self, chore: str) -> None:
        """One failed."""
        metrics.AUTHORITY_CHORES.labels(chore, "failed").inc()


def _end(chain: Iterable[x509.Certificate]) -> float:
    return min(one.not_valid_after_utc for one in chain).timestamp()
