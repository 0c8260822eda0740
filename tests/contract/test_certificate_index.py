"""The contract of `CertificateRecords`: what is looked for by serial number, and keys that are certified."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.authority.certificates.follow_certified_keys import load_certified_keys
from app.authority.certificates.key_guard import KeyGuard, holder_of
from app.errors import AppError
from app.ledger.entry import EntryKind, LedgerEntry
from app.storage.certificate_index import CertificateIndex
from app.storage.database import Database

CART = "spiffe://cluster.local/ns/shop/sa/cart"


def issued(serial: str, *, now: datetime, hours: float = 1, **detail: Any) -> LedgerEntry:
    """The entry of an issued certificate whose key is named after its serial number."""
    instants = {
        "notBefore": (now - timedelta(minutes=2)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "notAfter": (now + timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    facts = {
        "serial": serial,
        "authority": "a1",
        "node": "node-a",
        "cluster": "Kubernetes",
        "keySha256": hashlib.sha256(serial.encode()).hexdigest(),
    }
    return LedgerEntry(
        kind=EntryKind.CERTIFICATE_ISSUED,
        time=now,
        actor="node:istio-system/ztunnel@node-a",
        subject=CART,
        detail=facts | instants | detail,
    )


async def test_a_certificate_is_found_by_its_serial_number(database: Database) -> None:
    """With who holds it, who signed it, and its key."""
    now = datetime.now(UTC)
    await database.append(issued("4a01", now=now))
    await database.append(issued("4a02", now=now, purpose="listener"))
    index = CertificateIndex(database)
    found, of_ours = await index.find_certificate("4a01"), await index.find_certificate("4a02")

    assert found is not None
    assert (found.identity, found.node, found.cluster, found.authority) == (CART, "node-a", "Kubernetes", "a1")
    assert found.key_hash == hashlib.sha256(b"4a01").hexdigest()
    assert found.not_after == (now + timedelta(hours=1)).replace(microsecond=0)
    assert found.purpose == ""
    assert of_ours is not None
    assert of_ours.purpose == "listener"
    assert await index.find_certificate("4a03") is None
    assert await index.find_certificate("' OR 1=1 --") is None


async def test_a_renewal_stays_with_its_holder(database: Database) -> None:
    """One of several pods of an account on a node is told from the others, also when it has no token any more."""
    now, index = datetime.now(UTC), CertificateIndex(database)
    workload = {"actor": "workload:shop/cart"}
    await database.append(replace(issued("08", now=now, callerPod="cart-1"), **workload))
    await database.append(replace(issued("09", now=now, callerPod="", renewalOf="08", holder="cart-1"), **workload))
    holders = [found.holder for serial in ("08", "09") if (found := await index.find_certificate(serial))]

    assert holders == ["cart-1", "cart-1"]


async def test_keys_of_unexpired_workload_certificates_oldest_first(database: Database) -> None:
    """Expired ones, our own, and those without a key are left out; the newest are kept when there are too many."""
    now = datetime.now(UTC)
    entries = [
        issued("01", now=now, hours=-1),
        issued("02", now=now, purpose="listener"),
        issued("03", now=now, keySha256=""),
        issued("04", now=now),
        issued("05", now=now, node="node-b"),
    ]
    for entry in entries:
        await database.append(entry)
        await asyncio.sleep(0.002)  # ids are ordered by the millisecond
    index = CertificateIndex(database)
    every = await index.certified_keys(now=now, since=None, limit=10)
    newest = await index.certified_keys(now=now, since=None, limit=1)

    assert [key.key_hash for key in every] == [hashlib.sha256(name).digest() for name in (b"04", b"05")]
    assert every[1].holder == holder_of(cluster="Kubernetes", node="node-b", identity=CART)
    assert [key.key_hash for key in newest] == [hashlib.sha256(b"05").digest()]


async def test_keys_are_followed_by_when_they_were_recorded(database: Database) -> None:
    """Other replicas' certificates are found without reading everything again."""
    index, now = CertificateIndex(database), datetime.now(UTC)
    await database.append(issued("06", now=now))

    assert len(await index.certified_keys(now=now, since=now - timedelta(seconds=40), limit=10)) == 1
    assert len(await index.certified_keys(now=now, since=now + timedelta(seconds=40), limit=10)) == 0


async def test_a_start_remembers_who_holds_which_key(database: Database) -> None:
    """Case 39 holds over a restart: another node is refused, the same one is not."""
    now = datetime.now(UTC)
    await database.append(issued("07", now=now))
    keys = KeyGuard()
    await load_certified_keys(keys, CertificateIndex(database), now=now, limit=10)
    (held,) = await CertificateIndex(database).certified_keys(now=now, since=None, limit=10)

    assert not keys.claim(held, now=now)
    with pytest.raises(AppError):
        keys.claim(
            type(held)(
                key_hash=held.key_hash,
                holder=holder_of(cluster="Kubernetes", node="node-b", identity=CART),
                not_after=held.not_after,
            ),
            now=now,
        )
