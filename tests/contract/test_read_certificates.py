"""Watching certificates, and their figures, over a real database."""

from __future__ import annotations

import asyncio
import math
from types import SimpleNamespace
from typing import Any

import pytest

from app.authority.certificates.certificate_records import RecordedCertificate
from app.authority.certificates.stored_certificates import CertificateFilter
from app.authority.placement.clusters import Clusters
from app.authority.placement.placements import Placements
from app.authority.worker_registry import WorkerRegistry
from app.bootstrap.certificate_figures import CertificateFigures
from app.errors import AppError, ErrorCode
from app.ledger.entry import EntryKind
from app.rest.services import CertificateServices
from app.storage import certificate_rows
from app.storage.database import Database
from app.storage.ledger_rows import PreparedEntry, store_entries
from app.telemetry import metrics
from tests.contract.conftest import make_entry
from tests.contract.test_quarantines import CART, HOUR, NOW, WEB, issue
from tests.support.administration import ALICE, StandingClock, administration_over
from tests.support.key_keeper import local_keeper
from tests.support.ledger import number_all
from tests.support.quarantines import quarantine
from tests.support.revocation import certificate_services, view_over

FROM_THE_FIRST = "0"


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


async def test_new_certificates_come_as_soon_as_they_are_numbered_and_each_once(database: Database) -> None:
    """Filtered, in the order of the ledger; the cursor goes on where the last answer ended."""
    reading = (await services_over(database, StandingClock())).certificates
    asked = CertificateFilter(identity=CART)
    from_now_on = await reading.watch(asked, cursor="", wait_seconds=0)
    waiting = asyncio.create_task(reading.watch(asked, cursor=from_now_on.cursor, wait_seconds=20))
    await issue(database, WEB, serial="1")
    await issue(database, serial="2")
    await number_all(database)
    async with asyncio.timeout(20):
        first = await waiting
    await issue(database, serial="3")
    await number_all(database)
    second = await reading.watch(asked, cursor=first.cursor, wait_seconds=5)
    await issue(database, serial="4")
    third = await reading.watch(asked, cursor=second.cursor, wait_seconds=0)

    assert [["2"], ["3"], []] == [[item["serial"] for item in one.items] for one in (first, second, third)]
    assert ["0", "2", "3", "3"] == [one.cursor for one in (from_now_on, first, second, third)]


async def test_a_certificate_that_came_late_is_not_left_out(database: Database) -> None:
    """Its id is older than what was shown already: a commit that hung, or a journal that was drained after an hour."""
    reading = (await services_over(database, StandingClock())).certificates
    late = PreparedEntry.prepare(make_entry(CART, EntryKind.CERTIFICATE_ISSUED, serial="1"))
    await issue(database, serial="2")
    await number_all(database)
    first = await reading.watch(CertificateFilter(), cursor=FROM_THE_FIRST, wait_seconds=0)
    await database.write(lambda transaction: store_entries(transaction.connection, [late]))
    await number_all(database)
    second = await reading.watch(CertificateFilter(), cursor=first.cursor, wait_seconds=0)

    assert [["2"], ["1"]] == [[item["serial"] for item in one.items] for one in (first, second)]


async def test_many_new_certificates_come_in_pieces(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the number of entries that are looked at, whatever is asked for."""
    monkeypatch.setattr(certificate_rows, "_MAX_LOOKED_AT", 2)
    reading = (await services_over(database, StandingClock())).certificates
    for number in range(5):
        await issue(database, WEB if number < 4 else CART, serial=f"{number}")
    await number_all(database)
    found = await reading.watch(CertificateFilter(identity=CART), cursor=FROM_THE_FIRST, wait_seconds=0)
    assert (["4"], "5") == ([item["serial"] for item in found.items], found.cursor)


@pytest.mark.parametrize("cursor", ["-1", "1.5", "00" * 16, "later", "7"])
async def test_a_cursor_that_is_none_is_refused(database: Database, cursor: str) -> None:
    """Also one beyond the end: of another ledger, or of one that lost entries."""
    reading = (await services_over(database, StandingClock())).certificates
    with pytest.raises(AppError) as caught:
        await reading.watch(CertificateFilter(), cursor=cursor, wait_seconds=0)
    assert ErrorCode.INVALID is caught.value.code


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
