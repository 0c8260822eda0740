"""Publishing revocation lists, over a real database and real keys."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509

from app.authority.authorities.authority_ports import AuthorityRole, StoredAuthority
from app.authority.certificates.clock_guard import ClockGuard
from app.authority.quarantine.publish_crls import CrlPublisher
from app.authority.quarantine.quarantines import QuarantineView
from app.ca.lifecycle import Step
from app.ledger.entry import EntryKind
from app.limits import Limits
from app.storage.database import Database
from tests.contract.test_quarantines import CART, issue
from tests.support.administration import ALICE, StandingClock, acts, administration_over
from tests.support.authorities import Kit, make_kit
from tests.support.quarantines import quarantine

LIMITS = Limits()
DAY = timedelta(days=1)


@dataclass
class Site:
    """A database with authorities, and a publisher over it."""

    database: Database
    clock: StandingClock
    view: QuarantineView
    publisher: CrlPublisher
    issuing: StoredAuthority
    root: StoredAuthority
    kit: Kit
    files: list[str] = field(default_factory=list)

    async def put(self, name: str = "q", **spec: Any) -> None:
        await administration_over(self.database, self.clock).apply_batch(ALICE, [quarantine(name, **spec)])
        await self.view.refresh()
        await self.publisher.publish()

    def serials(self, authority: StoredAuthority) -> dict[int, str]:
        found = self.publisher.find(authority.id)
        assert found is not None
        return {
            entry.serial_number: entry.extensions.get_extension_for_class(x509.CRLReason).value.reason.value
            for entry in x509.load_der_x509_crl(found.stored.der)
        }

    def numbers(self) -> tuple[int, int]:
        return tuple(self.publisher.find(one.id).stored.number for one in (self.root, self.issuing))  # type: ignore[union-attr, return-value]


async def site_over(database: Database, authorities: Any = None) -> Site:
    clock = StandingClock()
    kit = await make_kit(database, clock=clock).open()
    keeper = kit.keeper
    stored = {authority.role: authority for authority in await database.list_authorities()}
    view = QuarantineView(database, clock=clock, limits=LIMITS, trust_domain="cluster.local")
    await view.refresh()
    files: list[str] = []
    publisher = CrlPublisher(
        database,
        authorities or database,
        keeper,
        view,
        clock=ClockGuard(clock, max_drift_seconds=300),
        limits=LIMITS.quarantine,
        max_lifetime=DAY,
        sink=files.append,
    )
    return Site(database, clock, view, publisher, stored["issuing"], stored["root"], kit, files)


async def test_every_authority_has_a_list_also_when_nothing_is_revoked(database: Database) -> None:
    """Verifiers that look up the whole chain need one each; the root's key is opened for the moment only."""
    site = await site_over(database)
    await site.publisher.publish()

    assert ({}, {}) == (site.serials(site.root), site.serials(site.issuing))
    assert (1, 1) == site.numbers()
    assert [site.publisher.pem] == site.files
    assert 2 == site.publisher.pem.count("BEGIN X509 CRL")
    assert () == site.publisher.unpublished


async def test_what_is_in_quarantine_is_on_hold_and_comes_back_with_the_lift(database: Database) -> None:
    """The number grows with each list, and each publication is on record."""
    site = await site_over(database)
    await issue(database, serial="4711", authority=site.issuing.id)
    await issue(database, serial="4712", authority=site.issuing.id, node="node-b")
    await issue(database, "spiffe://cluster.local/ns/web/sa/web", serial="4713", authority=site.issuing.id)
    await site.publisher.publish()
    await site.put(identity=CART)
    held = site.serials(site.issuing)
    await administration_over(database, site.clock).delete_policy(ALICE, ("Quarantine", "", "q"), expected="*")
    await site.view.refresh()
    await site.publisher.publish()

    assert {0x4711: "certificateHold", 0x4712: "certificateHold"} == held
    assert {} == site.serials(site.issuing)
    assert (1, 3) == site.numbers()
    published = [act["detail"] for act in await acts(database) if act["kind"] == EntryKind.CRL_PUBLISHED]
    assert [(1, 0), (1, 0), (2, 2), (3, 0)] == sorted((one["number"], one["revoked"]) for one in published)


async def test_a_list_is_made_anew_at_half_its_life_and_keeps_since_when(database: Database) -> None:
    """Nothing else changed, and nextUpdate never passes."""
    site = await site_over(database)
    await issue(database, serial="4711", authority=site.issuing.id, not_after=site.clock.now() + 3 * DAY)
    await site.put(identity=CART)
    began = site.clock.now()
    await site.publisher.publish()
    numbers = site.numbers()
    site.clock.advance(43_201)
    await site.publisher.publish()
    found = site.publisher.find(site.issuing.id)
    assert found is not None
    (entry,) = x509.load_der_x509_crl(found.stored.der)

    assert ((1, 1), (2, 2)) == (numbers, site.numbers())
    assert began == entry.revocation_date_utc


async def test_an_expired_certificate_leaves_after_one_more_list(database: Database) -> None:
    """RFC 5280 §3.3; and its expiry alone is no reason for a new list."""
    site = await site_over(database)
    await issue(database, serial="4711", authority=site.issuing.id, not_after=site.clock.now() + timedelta(hours=1))
    await site.put(identity=CART)
    site.clock.advance(7_200)
    await site.publisher.publish()
    at_expiry = site.numbers()
    site.clock.advance(43_200)
    await site.publisher.publish()
    once_more = site.serials(site.issuing)
    site.clock.advance(43_300)
    await site.publisher.publish()

    assert (1, 1) == at_expiry
    assert [0x4711] == list(once_more)
    assert {} == site.serials(site.issuing)


@pytest.mark.parametrize("moved", [10 * DAY, 25 * 365 * DAY, -3 * DAY])
async def test_bar_r6_a_clock_that_was_moved_takes_nothing_off_a_list(database: Database, moved: timedelta) -> None:
    """By a clock that is ahead what is on hold has expired, and who signed the list too: the list stays, and it is said."""
    site = await site_over(database)
    await issue(database, serial="4711", authority=site.issuing.id)
    await site.put(identity=CART)
    pem = site.publisher.pem
    site.clock.moved = moved
    await site.publisher.publish()

    assert {0x4711: "certificateHold"} == site.serials(site.issuing)
    assert pem == site.publisher.pem == site.files[-1]
    assert {site.root.id, site.issuing.id} == {one.issuer for one in site.publisher.unpublished}
    assert all("clock" in one.reason for one in site.publisher.unpublished)
    site.clock.moved = timedelta(0)
    await site.publisher.publish()
    assert (pem, ()) == (site.publisher.pem, site.publisher.unpublished)


async def test_a_list_from_the_future_is_made_anew(database: Database) -> None:
    """Made by a process that was started while the clock was ahead: nobody would take a new one for its whole lead."""
    site = await site_over(database)
    site.clock.time += 25 * DAY
    await site.publisher.publish()
    site.clock.time -= 25 * DAY
    await site.publisher.publish()

    assert (2, 2) == site.numbers()
    assert {site.clock.now()} == {crl.stored.this_update for crl in site.publisher.crls}


async def test_the_end_of_a_quarantine_takes_its_certificates_off_the_list(database: Database) -> None:
    """By itself, when its time is over."""
    site = await site_over(database)
    await issue(database, serial="4711", authority=site.issuing.id)
    await site.put(identity=CART, until=(site.clock.now() + timedelta(hours=1)).isoformat())
    during = site.serials(site.issuing)
    site.clock.advance(3_600)
    await site.publisher.publish()

    assert ([0x4711], {}) == (list(during), site.serials(site.issuing))


async def test_of_two_replicas_one_publishes_and_both_serve_it(database: Database) -> None:
    """Numbers never repeat: the one that comes second finds nothing left to do."""
    site = await site_over(database)
    other = CrlPublisher(
        database,
        database,
        site.publisher._keeper,
        site.view,
        clock=ClockGuard(site.clock, max_drift_seconds=300),
        limits=LIMITS.quarantine,
        max_lifetime=DAY,
    )
    await issue(database, serial="4711", authority=site.issuing.id)
    await administration_over(database, site.clock).apply_batch(ALICE, [quarantine(node="node-a")])
    await site.view.refresh()
    await asyncio.gather(site.publisher.publish(), other.publish())
    await asyncio.gather(site.publisher.publish(), other.publish())

    assert site.publisher.pem == other.pem
    assert (1, 1) == site.numbers()


class Authorities:
    """Stored authorities as a test changes them."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.changes: dict[str, Any] = {}

    async def list_authorities(self) -> list[StoredAuthority]:
        found = await self.database.list_authorities()
        return [replace(one, **self.changes) if one.role == "issuing" else one for one in found]


async def test_a_quarantine_holds_across_a_rotation(database: Database) -> None:
    """Certificates of the authority before stay on its list and with the workers, those of the new one get theirs."""
    site = await site_over(database)
    await site.kit.issue("node-x", "cart")
    await site.put(node="node-x")
    (successor,) = await site.kit.rotate(AuthorityRole.ISSUING)
    site.clock.time += timedelta(minutes=1)
    await site.kit.do(Step.ACTIVATE, successor)
    await site.kit.issue("node-x", "pay")  # this issuer knows of no quarantine: as if it was under way
    await site.view.refresh()
    await site.publisher.publish()

    before, after = (one.svid.certificate.serial_number for one in site.kit.issued)
    rows = await site.kit.rows()
    assert ("retiring", "active") == (rows[site.issuing.id].state, rows[successor].state)
    assert {before: "certificateHold"} == site.serials(rows[site.issuing.id])
    assert {after: "certificateHold"} == site.serials(rows[successor])
    revoked = site.view.index.revoked
    assert {f"{before:x}", f"{after:x}"} == {serial for _, serial in revoked.serials}
    assert 2 == len({key_id for key_id, _ in revoked.serials})

    site.clock.time += timedelta(days=3)  # nobody can present a certificate of the old one any more
    await site.view.refresh()
    await site.publisher.publish()
    assert {} == dict(site.view.index.revoked.serials)


async def test_a_list_that_nobody_needs_any_more_is_neither_kept_up_nor_missed(database: Database) -> None:
    """After each rotation: else its nextUpdate passes, and an alarm goes off about what is as it should be."""
    site = await site_over(database)
    await site.kit.issue()
    root, successor = await site.kit.rotate(AuthorityRole.ROOT)
    site.clock.time += 2 * DAY
    await site.kit.do(Step.ACTIVATE, successor)
    await site.publisher.publish()
    assert {site.root.id, root, successor} == {crl.stored.issuer for crl in site.publisher.crls}

    site.clock.time += 2 * DAY
    await site.kit.do(Step.REMOVE, site.root.id)
    await site.publisher.publish()
    assert {root, successor} == {crl.stored.issuer for crl in site.publisher.crls}
    assert () == site.publisher.unpublished


async def test_a_root_that_was_removed_by_force_is_missed_as_long_as_a_certificate_needs_it(database: Database) -> None:
    """Its key is gone, so its last list stands, and whoever asks is told."""
    site = await site_over(database)
    await site.kit.add_tokens()
    root, successor = await site.kit.rotate(AuthorityRole.ROOT)
    site.clock.time += 2 * DAY
    await site.kit.authorities.refresh()
    await site.kit.issue()
    await site.kit.do(Step.ACTIVATE, successor)
    await site.publisher.publish()
    await site.kit.forced(Step.REMOVE, site.root.id)
    site.clock.time += DAY / 2 + timedelta(seconds=1)
    await site.publisher.publish()

    assert site.publisher.find(site.root.id) is not None
    assert {site.root.id, site.issuing.id} == {one.issuer for one in site.publisher.unpublished}
    site.clock.time += DAY
    await site.publisher.publish()
    assert ({root, successor}, ()) == (
        {crl.stored.issuer for crl in site.publisher.crls},
        site.publisher.unpublished,
    )


async def test_a_tainted_authority_is_on_its_roots_list(database: Database) -> None:
    """As compromised, for which there is no way back."""
    authorities = Authorities(database)
    site = await site_over(database, authorities)
    await issue(database, serial="4711", authority=site.issuing.id)
    authorities.changes["state"] = "tainted"
    await site.publisher.publish()
    serial = x509.load_pem_x509_certificate(site.issuing.certificate_pem.encode()).serial_number

    assert {serial: "cACompromise"} == site.serials(site.root)
    assert {} == site.serials(site.issuing)


async def test_an_authority_whose_key_is_elsewhere_is_named_with_the_reason(database: Database) -> None:
    """The others have their lists all the same."""
    authorities = Authorities(database)
    site = await site_over(database, authorities)
    await site.publisher._keeper.close_authority(site.issuing.id)
    authorities.changes["sealed_key"] = b""
    await site.publisher.publish()

    assert {} == site.serials(site.root)
    (unpublished,) = site.publisher.unpublished
    assert site.issuing.id == unpublished.issuer
    assert "key" in unpublished.reason


@pytest.mark.parametrize("state", ["retired", "retiring"])
async def test_an_authority_that_nobody_has_certificates_of_needs_no_list(database: Database, state: str) -> None:
    """It gets one as soon as somebody has."""
    authorities = Authorities(database)
    site = await site_over(database, authorities)
    authorities.changes["state"] = state
    await site.publisher.publish()
    without = site.publisher.find(site.issuing.id)
    await issue(database, authority=site.issuing.id)
    await site.publisher.publish()

    assert without is None
    assert site.publisher.find(site.issuing.id) is not None
