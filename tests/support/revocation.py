"""Quarantine, revocation lists and questions about certificates over a database, for tests."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from app.authority.administration import Administration
from app.authority.authorities.authority_ports import KeyKeeper
from app.authority.certificates.clock_guard import ClockGuard
from app.authority.certificates.read_certificates import ReadCertificates
from app.authority.placement.placements import Placements
from app.authority.ports import Clock, MonotonicClock
from app.authority.quarantine.manage_quarantines import ManageQuarantines, Surroundings
from app.authority.quarantine.publish_crls import CrlPublisher
from app.authority.quarantine.quarantines import QuarantineView
from app.authority.worker_registry import WorkerRegistry
from app.limits import Limits
from app.rest.services import CertificateServices
from app.storage.database import Database


def view_over(database: Database, clock: Clock, limits: Limits | None = None) -> QuarantineView:
    """The authority's view of quarantines; nothing is read yet."""
    return QuarantineView(database, clock=clock, limits=limits or Limits(), trust_domain="cluster.local")


def certificate_services(
    database: Database,
    clock: MonotonicClock,
    keeper: KeyKeeper,
    *,
    view: QuarantineView,
    administration: Administration,
    placements: Placements,
    workers: WorkerRegistry,
    limits: Limits | None = None,
    sink: Callable[[str], None] | None = None,
) -> CertificateServices:
    """What the API is given."""
    limits = limits or Limits()
    crls = CrlPublisher(
        database,
        database,
        keeper,
        view,
        clock=ClockGuard(clock, max_drift_seconds=300),
        limits=limits.quarantine,
        max_lifetime=timedelta(days=2),
        sink=sink,
    )
    reading = ReadCertificates(
        database,
        administration.pages,
        view,
        crls,
        placements,
        clock=clock,
        limits=limits,
        overdue_margin=timedelta(hours=1),
    )
    names = iter(f"{number:06x}" for number in range(1_000))
    quarantines = ManageQuarantines(
        administration,
        database,
        view,
        crls,
        workers,
        clock=clock,
        limits=limits,
        random_hex=lambda _: next(names),
        surroundings=Surroundings(replica_id="one"),
    )
    return CertificateServices(certificates=reading, quarantines=quarantines, crls=crls)
