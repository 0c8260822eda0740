"""Figures of issued certificates for `/metrics`, refreshed in the background: no scrape waits for the database."""

from __future__ import annotations

import asyncio
import math
from datetime import timedelta

import structlog

from app.authority.ports import Clock
from app.authority.quarantine.publish_crls import CrlPublisher
from app.authority.quarantine.quarantines import QuarantineView
from app.authority.store import Store, Transaction
from app.errors import AppError
from app.telemetry import metrics

_log = structlog.get_logger(__name__)

_EVERY_SECONDS = 60.0


class CertificateFigures:
    """Sets the gauges of quarantines, revocation lists, bundle coverage and overdue renewals."""

    def __init__(
        self, store: Store, view: QuarantineView, crls: CrlPublisher, *, clock: Clock, margin: timedelta
    ) -> None:
        self._store = store
        self._view = view
        self._crls = crls
        self._clock = clock
        self._margin = margin
        self._bundles: set[str] = set()  # that ever had holders
        self._issuers: set[str] = set()  # that ever had a list

    async def run(self) -> None:
        """Refresh for ever; a database that is away leaves the figures as they were."""
        while True:
            try:
                await self.refresh()
            except AppError as error:
                _log.warning("certificate_figures_not_read", reason=error.detail)
            await asyncio.sleep(_EVERY_SECONDS)

    async def refresh(self) -> None:
        """Read and set everything once.

        Raises:
            AppError: `UNAVAILABLE`.
        """
        now = self._clock.now()

        def work(transaction: Transaction) -> tuple[int, dict[str, int]]:
            rows = transaction.certificates
            held = {holding.bundle: holding.holders for holding in transaction.authorities.holdings(now, now)}
            return rows.count_overdue(now=now, margin=self._margin), held

        overdue, coverage = await self._store.read(work)
        metrics.OVERDUE_RENEWALS.set(overdue)
        self._bundles |= coverage.keys()
        for bundle in self._bundles:  # a label never leaves a file that several processes share: nobody is 0
            metrics.BUNDLE_COVERAGE.labels(bundle).set(coverage.get(bundle, 0))
        metrics.QUARANTINES.set(sum(quarantine.holds(now) for quarantine in self._view.index.all()))
        for issuer in self._issuers - {crl.stored.issuer for crl in self._crls.crls}:
            metrics.CRL_NEXT_UPDATE.labels(issuer).set(math.inf)
        for crl in self._crls.crls:
            self._issuers.add(crl.stored.issuer)
            metrics.CRL_NUMBER.labels(crl.stored.issuer).set(crl.stored.number)
            metrics.CRL_NEXT_UPDATE.labels(crl.stored.issuer).set(crl.stored.next_update.timestamp())
        metrics.CRLS_UNPUBLISHED.set(len(self._crls.unpublished))
