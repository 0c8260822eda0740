"""Watching certificates, and their figures, over a real database."""

from __future__ import annotations

import asyncio
import math
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from app.authority.certificates.certificate_records import RecordedCertificate
from app.authority.certificates.stored_certificates import CertificateFilter
from app.authority.placement.clusters import Clusters
from app.authority.placement.placements import Placements
from app.authority.worker_registry import WorkerRegistry
from app.bootstrap.certificate_figures import CertificateFigures
from app.rest.services import CertificateServices
from app.storage.database import Database
from app.telemetry import metrics
from tests.contract.test_quarantines import CART, HOUR, NOW, WEB, issue
from tests.support.administration import ALICE, StandingClock, administration_over
from tests.support.key_keeper import local_keeper
from tests.support.quarantines import quarantine
from tests.support.revocation import certificate_services, view_over

FROM_THE_FIRST = "00" * 16


class ClockAhead:
    """Two seconds ahead: what is written now is settled already."""

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=2)

    def monotonic(self) -> float:
        return time.monotonic()


async def services_over(database: Database, clock: Any) -> CertificateServices:
    view = view_over(database, clock)
    await view.refresh()
    return certificate_services(
        database,
        clock,
        local_keeper(),
        view=view,
        administration=administration_over(database),
        placements=Placements({}, Clusters()),
        workers=WorkerRegistry(),
    )


async def test_new_certificates_come_as_soon_as_they_are_on_record_and_each_once(database: Database) -> None:
    """Filtered, oldest first; the cursor goes on where the last answer ended."""
    reading = (await services_over(database, ClockAhead())).certificates
    asked = CertificateFilter(identity=CART)
    waiting = asyncio.create_task(reading.watch(asked, cursor=FROM_THE_FIRST, wait_seconds=20))
    await issue(database, WEB, serial="1")
    await issue(database, serial="2")
    async with asyncio.timeout(10):
        first = await waiting
    await issue(database, serial="3")
    second = await reading.watch(asked, cursor=first.cursor, wait_seconds=5)
    third = await reading.watch(asked, cursor=second.cursor, wait_seconds=0)

    assert [["2"], ["3"], []] == [[item["serial"] for item in one.items] for one in (first, second, third)]
    assert second.cursor < third.cursor


async def test_what_may_not_be_settled_yet_waits(database: Database) -> None:
    """Another replica may be about to write something older."""
    clock = StandingClock()
    clock.time = datetime.now(UTC) - HOUR
    reading = (await services_over(database, clock)).certificates
    await issue(database, serial="1")
    found = await reading.watch(CertificateFilter(), cursor=FROM_THE_FIRST, wait_seconds=0)
    assert [] == found.items


async def test_figures_say_what_is_overdue_held_and_in_quarantine(database: Database) -> None:
    """As gauges; a bundle that nobody holds any more is 0, because labels never leave files of several processes."""
    clock = StandingClock()
    services = await services_over(database, clock)
    view = services.quarantines._view
    await issue(database, serial="1", bundle="b1", not_before=NOW - 20 * HOUR, not_after=NOW + 4 * HOUR)
    await issue(database, WEB, serial="2", bundle="b2")
    await administration_over(database, clock).apply_batch(
        ALICE, [quarantine("a", node="n"), quarantine("b", node="n", until=(NOW - HOUR).isoformat())]
    )
    await view.refresh()
    figures = CertificateFigures(database, view, services.crls, clock=clock, margin=HOUR)
    await figures.refresh()
    before = {sample.labels["bundle"]: sample.value for sample in _samples(metrics.BUNDLE_COVERAGE)}
    await issue(database, serial="3", bundle="b2")
    await figures.refresh()
    after = {sample.labels["bundle"]: sample.value for sample in _samples(metrics.BUNDLE_COVERAGE)}

    assert ({"b1": 1, "b2": 1}, {"b1": 0, "b2": 2}) == (before, after)
    assert [0] == [sample.value for sample in _samples(metrics.OVERDUE_RENEWALS)]
    assert [1] == [sample.value for sample in _samples(metrics.QUARANTINES)]


async def test_a_list_that_will_not_come_again_is_not_late_for_ever(database: Database) -> None:
    """Its authority has expired: an alert on the next update of a list must not stand for the rest of time."""
    clock = StandingClock()
    view = (await services_over(database, clock)).quarantines._view
    stored = SimpleNamespace(issuer="ended", number=4, next_update=NOW)
    crls: Any = SimpleNamespace(crls=(SimpleNamespace(stored=stored),), unpublished=())
    figures = CertificateFigures(database, view, crls, clock=clock, margin=HOUR)

    def next_update() -> list[float]:
        return [one.value for one in _samples(metrics.CRL_NEXT_UPDATE) if one.labels["authority"] == "ended"]

    await figures.refresh()
    assert [NOW.timestamp()] == next_update()
    crls.crls = ()
    await figures.refresh()
    assert [math.inf] == next_update()


def _samples(gauge: Any) -> list[Any]:
    return [sample for family in gauge.collect() for sample in family.samples]


async def test_case_056_a_certificate_in_quarantine_does_not_renew_itself(database: Database) -> None:
    """By its identity, its node or its own serial; on port 15013 it is what the caller shows."""
    view = view_over(database, StandingClock())
    await administration_over(database).apply_batch(
        ALICE, [quarantine("i", identity=CART), quarantine("n", node="node-b"), quarantine("s", serial="0c")]
    )
    await view.refresh()

    def why(**changed: str) -> str:
        members = {"serial": "1", "identity": WEB, "node": "node-a", "cluster": "Kubernetes", **changed}
        return view.why_revoked(
            RecordedCertificate(
                **members, authority="a1", purpose="", holder="", key_hash="", not_before=NOW, not_after=NOW + HOUR
            )
        )

    assert "" == why()
    assert "quarantine by i" in why(identity=CART)
    assert "quarantine by n" in why(node="node-b")
    assert "quarantine by s" in why(serial="c")
