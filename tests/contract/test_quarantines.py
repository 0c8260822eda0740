"""Quarantines and issued certificates, over a real database."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509

from app.authority.certificates.stored_certificates import CertificateFilter, StoredCertificate, StoredCrl
from app.authority.quarantine.quarantines import QuarantineView
from app.authority.records import KeptKind
from app.errors import AppError, ErrorCode
from app.ledger.entry import EntryKind, LedgerEntry
from app.limits import Limits
from app.storage.database import Database
from tests.support.administration import ALICE, StandingClock, administration_over, policy
from tests.support.authorities import make_kit
from tests.support.grants import grant
from tests.support.quarantines import quarantine

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
CART = "spiffe://cluster.local/ns/shop/sa/cart"
WEB = "spiffe://cluster.local/ns/web/sa/web"
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


async def issue(database: Database, identity: str = CART, serial: str = "47aa", **detail: Any) -> None:
    """Put a certificate on record, valid from now for a day unless told otherwise."""
    not_before, not_after = detail.pop("not_before", NOW), detail.pop("not_after", NOW + DAY)
    entry = LedgerEntry(
        kind=EntryKind.CERTIFICATE_ISSUED,
        time=NOW,
        actor="node:test",
        subject=identity,
        detail={
            "serial": serial,
            "authority": "a1",
            "node": "node-a",
            "cluster": "Kubernetes",
            "bundle": "b1",
            "certificateSha256": f"hash of {serial}",
            "notBefore": not_before.isoformat(),
            "notAfter": not_after.isoformat(),
            **detail,
        },
    )
    await database.append(entry)
    await asyncio.sleep(0.002)  # ids begin with the millisecond


def view_over(database: Database, clock: StandingClock | None = None) -> QuarantineView:
    return QuarantineView(database, clock=clock or StandingClock(), limits=Limits(), trust_domain="cluster.local")


async def page(database: Database, before: str = "", limit: int = 100, **asked: Any) -> list[StoredCertificate]:
    return await database.read(
        lambda transaction: transaction.certificates.page(CertificateFilter(**asked), before=before, limit=limit)
    )


async def test_before_the_first_reading_nobody_gets_a_certificate(database: Database) -> None:
    """An unread view is not an empty one."""
    with pytest.raises(AppError) as failure:
        view_over(database).check(identity=CART)
    assert ErrorCode.UNAVAILABLE is failure.value.code


async def test_a_quarantine_holds_when_its_change_is_acknowledged_and_not_after_its_end(database: Database) -> None:
    """By whichever way the document comes: the view knows it before the answer."""
    clock = StandingClock()
    view = view_over(database, clock)
    await view.refresh()
    administration = administration_over(database, clock)
    administration._on_quarantine = view.refresh
    view.check(identity=CART)
    end = (clock.now() + HOUR).isoformat()
    await administration.put_policy(ALICE, quarantine(identity=CART, until=end))

    with pytest.raises(AppError) as failure:
        view.check(identity=CART)
    clock.advance(3600)
    view.check(identity=CART)
    assert failure.value.diagnosis.startswith("quarantined: ")
    assert CART not in failure.value.detail


async def test_applying_deleting_and_rolling_back_reach_the_view_as_well(database: Database) -> None:
    """Replay and rollback hold for quarantines like for policies."""
    view = view_over(database)
    administration = administration_over(database)
    administration._on_quarantine = view.refresh
    applied = await administration.apply_batch(ALICE, [quarantine(identity=CART)])
    held = view.find(identity=CART)
    await administration.delete_policy(ALICE, ("Quarantine", "", "q"), expected="*")
    lifted = view.find(identity=CART)
    await administration.roll_back(ALICE, applied.revision.number, include={KeptKind.QUARANTINE})
    back = view.find(identity=CART)

    assert (True, None, True) == (held is not None, lifted, back is not None)


async def test_a_rollback_that_lifts_a_quarantine_or_opens_a_grant_says_so(database: Database) -> None:
    """Whoever includes them sees what it means today, before in a dry run."""
    administration = administration_over(database)
    before = await administration.apply_batch(ALICE, [grant("repair")])
    await administration.apply_batch(ALICE, [quarantine(identity=CART)])
    await administration.delete_policy(ALICE, ("Grant", "shop", "repair"), expected="*")

    for dry_run in (True, False):
        change = await administration.roll_back(ALICE, before.revision.number, include=set(KeptKind), dry_run=dry_run)
        said = {one.key: [warning.message for warning in one.warnings] for one in change.changes}
        assert {"Grant/shop/repair", "Quarantine//q"} == said.keys()
        assert "lets in again" in said["Grant/shop/repair"][0]
        assert "is lifted" in said["Quarantine//q"][0]


async def test_a_rollback_of_the_set_leaves_the_view_and_the_receipt_of_a_quarantine(database: Database) -> None:
    """Who was cut off since stays cut off at issuing, and by the same snapshot number as the receipt says."""
    view = view_over(database)
    administration = administration_over(database)
    administration._on_quarantine = view.refresh
    before = await administration.apply_batch(ALICE, [policy("a")])
    added = await administration.apply_batch(ALICE, [quarantine(identity=CART)])
    await administration.put_policy(ALICE, policy("a", method="PUT"), expected="*")
    await administration.roll_back(ALICE, before.revision.number)
    await view.refresh()

    assert view.find(identity=CART) is not None
    stored = await administration.get_policy(("Quarantine", "", "q"))
    number = await database.read(lambda transaction: transaction.policies.changed_number("Quarantine//q"))
    assert (added.revision.number, added.number) == (stored.revision, number)


async def test_another_replica_s_quarantine_is_noticed(database: Database) -> None:
    """The change poll wakes the view."""
    view = view_over(database)
    await view.refresh()
    following = asyncio.create_task(view.run(database))
    await administration_over(database).put_policy(ALICE, quarantine(node="node-a"))
    async with asyncio.timeout(5):
        while view.find(node="node-a", cluster="Kubernetes") is None:
            await asyncio.sleep(0.005)
    following.cancel()


async def test_workers_learn_of_the_unexpired_certificates_of_a_node_and_of_a_serial(database: Database) -> None:
    """By issuer and serial, and by hash; what expired needs no revocation."""
    await make_kit(database).open()
    (authority,) = [one for one in await database.list_authorities() if one.role == "issuing"]
    certificate = x509.load_pem_x509_certificate(authority.certificate_pem.encode())
    key_id = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest.hex()
    await issue(database, serial="1", authority=authority.id)
    await issue(database, serial="2", authority=authority.id, not_after=NOW - HOUR)
    await issue(database, serial="3", authority=authority.id, node="node-b")
    await issue(database, serial="4", authority=authority.id, node="node-b")
    await issue(database, serial="5", authority=authority.id, cluster="east")
    view = view_over(database)
    administration = administration_over(database)
    await administration.put_policy(ALICE, quarantine("n", node="node-a", cluster="Kubernetes"))
    await administration.put_policy(ALICE, quarantine("s", serial="03"))
    number = await database.read(lambda transaction: transaction.status().snapshot_number)
    revoked = await view.revoked(number)

    assert {(key_id, "1"): "n", (key_id, "3"): "s"} == dict(revoked.serials)
    assert {"hash of 1": "n", "hash of 3": "s"} == dict(revoked.hashes)


async def test_certificates_are_found_by_what_is_asked_of_them(database: Database) -> None:
    """Newest first, page by page."""
    await issue(database, serial="1")
    await issue(database, WEB, serial="2", node="node-b", cluster="east", authority="a2")
    await issue(database, serial="3", not_after=NOW + HOUR)

    async def serials(**asked: Any) -> list[str]:
        return [certificate.serial for certificate in await page(database, **asked)]

    assert ["3", "2", "1"] == await serials()
    assert ["3", "1"] == await serials(identity=CART)
    assert ["2"] == await serials(identity="spiffe://cluster.local/ns/web/*")
    assert [] == await serials(identity="spiffe://cluster.local/ns/w_b/*")
    assert ["2"] == await serials(node="node-b", cluster="east", authority="a2", serial="2")
    assert ["2"] == await serials(namespace="web")
    assert [] == await serials(namespace="we_")
    assert ["3"] == await serials(expiring_before=NOW + 2 * HOUR)
    assert ["2", "1"] == await serials(current_at=NOW + 2 * HOUR)
    first = await page(database, limit=2)
    assert ["1"] == [certificate.serial for certificate in await page(database, before=first[-1].uid)]


async def test_overdue_is_the_newest_of_its_kind_past_half_its_life_and_the_margin(database: Database) -> None:
    """A renewed one, an expired one, and what is for ourselves is not."""
    old = {"not_before": NOW - 18 * HOUR, "not_after": NOW + 6 * HOUR}
    await issue(database, serial="1", **old)
    await issue(database, serial="2")  # renewed
    await issue(database, WEB, serial="3", **old)  # not renewed
    await issue(database, WEB, serial="4", node="node-b", not_before=NOW - 11 * HOUR, not_after=NOW + 13 * HOUR)
    await issue(database, WEB, serial="5", node="node-c", not_before=NOW - DAY, not_after=NOW)
    await issue(database, WEB, serial="6", node="", purpose="listener", **old)

    async def overdue(margin: timedelta) -> tuple[list[str], int]:
        rows = await database.read(
            lambda transaction: transaction.certificates.overdue(now=NOW, margin=margin, limit=10)
        )
        count = await database.read(lambda transaction: transaction.certificates.count_overdue(now=NOW, margin=margin))
        return [row.serial for row in rows], count

    assert (["3"], 1) == await overdue(HOUR)
    assert ([], 0) == await overdue(6 * HOUR)


async def test_a_crl_is_replaced_only_by_who_knows_the_last_one(database: Database) -> None:
    """One publisher: of two replicas that made the same number, one is told no."""
    crl = StoredCrl(issuer="a1", number=1, der=b"one", entries="e", this_update=NOW, next_update=NOW + DAY)
    other = StoredCrl(issuer="a1", number=1, der=b"two", entries="e", this_update=NOW, next_update=NOW + DAY)
    second = StoredCrl(issuer="a1", number=2, der=b"three", entries="f", this_update=NOW, next_update=NOW + DAY)

    async def replace(candidate: StoredCrl, expected: int) -> bool:
        return await database.write(
            lambda transaction: transaction.certificates.replace_crl(candidate, expected_number=expected)
        )

    assert [True, False, True, False] == [
        await replace(crl, 0),
        await replace(other, 0),
        await replace(second, 1),
        await replace(second, 1),
    ]
    assert [second] == await database.read(lambda transaction: transaction.certificates.crls())
