"""Builds what concerns issued certificates: quarantine, revocation lists, questions about them, figures of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog

from app.authority.administration import Administration
from app.authority.certificates.read_certificates import ReadCertificates
from app.authority.placement.placements import Placements
from app.authority.quarantine.manage_quarantines import ManageQuarantines, Surroundings
from app.authority.quarantine.publish_crls import CrlPublisher
from app.authority.quarantine.quarantines import QuarantineView
from app.authority.worker_registry import WorkerRegistry
from app.bootstrap.certificate_figures import CertificateFigures
from app.bootstrap.clock import SystemClock
from app.bootstrap.foundation import Foundation
from app.bootstrap.state import replica_id
from app.ca.profile import max_workload_lifetime
from app.rest.services import CertificateServices
from app.settings import Settings

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """The use cases, and what runs beside them."""

    services: CertificateServices
    view: QuarantineView
    figures: CertificateFigures

    def work(self, foundation: Foundation) -> tuple[Coroutine[Any, Any, None], ...]:
        """What runs for as long as the process does."""
        return (self.view.run(foundation.database), self.services.crls.run(), self.figures.run())


def quarantine_view(settings: Settings, foundation: Foundation, clock: SystemClock) -> QuarantineView:
    """The view of quarantines, which issuing needs before anything else."""
    return QuarantineView(foundation.database, clock=clock, limits=settings.limits, trust_domain=settings.trust_domain)


def build_certificates(
    settings: Settings,
    foundation: Foundation,
    clock: SystemClock,
    *,
    view: QuarantineView,
    administration: Administration,
    placements: Placements,
    workers: WorkerRegistry,
) -> Certificates:
    """Everything over the view that issuing uses, too."""
    limits, database = settings.limits, foundation.database
    margin = timedelta(seconds=settings.certificates.overdue_margin_seconds)
    crls = CrlPublisher(
        database,
        database,
        foundation.keeper,
        view,
        clock=foundation.clock_guard,
        limits=limits.quarantine,
        max_lifetime=max_workload_lifetime(limits.certificate),
        sink=_file_sink(settings.certificates.crl_file),
    )
    view.on_change = crls.notify
    reading = ReadCertificates(
        database, administration.pages, view, crls, placements, clock=clock, limits=limits, overdue_margin=margin
    )
    quarantines = ManageQuarantines(
        administration,
        database,
        view,
        crls,
        workers,
        clock=clock,
        limits=limits,
        surroundings=Surroundings(
            replica_id=replica_id(settings),
            replica_window=timedelta(seconds=limits.authority.lease_seconds),
            node_accounts=frozenset(settings.tokens.trusted_node_accounts),
        ),
    )
    return Certificates(
        services=CertificateServices(certificates=reading, quarantines=quarantines, crls=crls),
        view=view,
        figures=CertificateFigures(database, view, crls, clock=clock, margin=margin),
    )


def _file_sink(path: Path | None) -> Callable[[str], None] | None:
    if path is None:
        return None
    target = path.expanduser()

    def write(pem: str) -> None:
        """Replace the file; its readers never see half of it. A list is public: everybody may read it."""
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            with temporary.open("w", encoding="ascii") as file:
                file.write(pem)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(target)
        except OSError as error:
            _log.error("crl_file_not_written", path=str(target), reason=error.strerror)

    return write
