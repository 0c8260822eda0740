"""The contract of the rows of authorities, bundles, replicas and acts, and of sealed keys."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from app.authority.authorities.authority_ports import StoredAuthority
from app.authority.authorities.authority_store import ActState, Holding, NodeHolding, PendingAct
from app.authority.store import Transaction
from app.ca.lifecycle import Replica
from app.errors import AppError, ErrorCode
from app.ledger.entry import EntryKind, LedgerEntry
from app.storage.database import Database
from tests.contract.conftest import NOW

HOUR = timedelta(hours=1)


def authority(name: str, role: str, state: str = "active", seconds: int = 0) -> StoredAuthority:
    return StoredAuthority(
        id=name,
        role=role,
        state=state,
        certificate_pem="-----BEGIN CERTIFICATE-----",
        sealed_key=b"\x00\xffsealed",
        created_at=NOW + timedelta(seconds=seconds),
        epoch=3,
        chain_pem="chain",
        root_id="root-1",
        key_ref="file:/somewhere",
        source="files",
        state_since=NOW,
        csr_pem="csr",
        automatic=True,
    )


async def add(database: Database, *rows: StoredAuthority) -> None:
    def work(transaction: Transaction) -> None:
        transaction.lock()
        transaction.authorities.add(rows)

    await database.write(work)


async def test_authorities_come_back_as_stored_oldest_first(database: Database) -> None:
    """Every field, and each addition counts in the epoch."""
    root, issuing = authority("root-1", "root"), authority("issuing-1", "issuing", seconds=1)
    await add(database, issuing, root)
    assert [root, issuing] == list(await database.list_authorities())
    assert 2 == await database.read(lambda transaction: transaction.authorities.epoch())


async def test_the_second_of_two_first_starts_is_told_to_read_again(database: Database) -> None:
    """Two replicas that both found nothing: one root stays."""
    results = await asyncio.gather(
        add(database, authority("root-1", "root")), add(database, authority("root-2", "root")), return_exceptions=True
    )
    refused = [result for result in results if isinstance(result, AppError)]
    assert [ErrorCode.CONFLICT] == [error.code for error in refused]
    assert len(await database.list_authorities()) == 1


async def test_many_prepared_ones_and_peers_may_stand_beside_an_active_one(database: Database) -> None:
    """Only the active place of root and issuing authority is taken once."""
    await add(database, authority("root-1", "root"))
    await add(database, authority("root-2", "root", "prepared", seconds=1))
    await add(database, authority("peer-1", "peer", seconds=2), authority("peer-2", "peer", seconds=3))
    assert ["root-1", "root-2", "peer-1", "peer-2"] == [found.id for found in await database.list_authorities()]
    with pytest.raises(AppError) as caught:
        await add(database, authority("root-2", "root", "prepared"))
    assert ErrorCode.CONFLICT is caught.value.code


async def test_a_change_is_compared_and_set(database: Database) -> None:
    """Of two that read the same version one stores its own; the other is told."""
    await add(database, authority("root-1", "root"))
    (read,) = await database.list_authorities()

    async def retire() -> StoredAuthority:
        return await database.write(
            lambda transaction: transaction.authorities.replace(replace(read, state="retiring"))
        )

    results = await asyncio.gather(retire(), retire(), return_exceptions=True)
    assert 1 == sum(isinstance(result, StoredAuthority) for result in results)
    assert [ErrorCode.CONFLICT] == [one.code for one in results if isinstance(one, AppError)]
    (stored,) = await database.list_authorities()
    assert ("retiring", read.epoch + 1) == (stored.state, stored.epoch)


async def test_the_sequence_of_the_bundle_grows_only_with_its_roots(database: Database) -> None:
    """Publishing the same again changes nothing; coming back to an old one is a new publication."""

    async def publish(fingerprint: str, *roots: str) -> int:
        return await database.write(
            lambda transaction: transaction.authorities.publish(fingerprint, roots, NOW).sequence
        )

    assert [1, 1, 2, 3] == [
        await publish("a", "r1"),
        await publish("a", "r1"),
        await publish("b", "r2", "r1"),
        await publish("a", "r1"),
    ]
    known = await database.read(lambda transaction: transaction.authorities.bundles())
    assert {"a": frozenset({"r1"}), "b": frozenset({"r1", "r2"})} == known
    latest = await database.read(lambda transaction: transaction.authorities.published())
    assert latest is not None
    assert ("a", ("r1",), NOW) == (latest.fingerprint, latest.roots, latest.since)


def issued(
    account: str, node: str, bundle: str, *, minute: int = 0, life: timedelta = HOUR, **detail: Any
) -> LedgerEntry:
    begin = NOW + timedelta(minutes=minute)
    actor = detail.pop("actor", "node:istio-system/ztunnel@x")
    return LedgerEntry(
        kind=EntryKind.CERTIFICATE_ISSUED,
        time=NOW,
        actor=actor,
        subject=f"spiffe://cluster.local/ns/shop/sa/{account}",
        detail={
            "node": node,
            "cluster": "Kubernetes",
            "bundle": bundle,
            "authority": "i-1",
            "serial": "01",
            "notBefore": f"{begin:%Y-%m-%dT%H:%M:%SZ}",
            "notAfter": f"{begin + life:%Y-%m-%dT%H:%M:%SZ}",
            **detail,
        },
    )


async def holdings(database: Database, minutes: float = 1, settled: float = 1_000) -> dict[str, int]:
    at, arrived = NOW + timedelta(minutes=minutes), NOW + timedelta(minutes=settled)
    found = await database.read(lambda transaction: transaction.authorities.holdings(at, arrived))
    return {holding.bundle: holding.holders for holding in found}


async def test_who_holds_which_bundle_goes_by_the_newest_certificate(database: Database) -> None:
    """Per identity, node and cluster; expired ones and those of our own doors do not count."""
    for entry in (
        issued("cart", "a", "old"),
        issued("cart", "a", "new", minute=30),
        issued("cart", "b", "old"),
        issued("pay", "b", "old", life=timedelta(seconds=20)),
        issued("gatehouse", "", "old", purpose="listener"),
    ):
        await database.append(entry)
    assert {"new": 1, "old": 1} == await holdings(database)
    assert {"new": 1} == await holdings(database, minutes=61)
    (found,) = [
        one
        for one in await database.read(lambda transaction: transaction.authorities.holdings(NOW, NOW + HOUR))
        if one.bundle == "new"
    ]
    end = (NOW + timedelta(minutes=90)).replace(microsecond=0)
    assert Holding(bundle="new", holders=1, until=end) == found


async def test_who_renewed_a_moment_ago_counts_for_both_bundles(database: Database) -> None:
    """It may not have taken the new one over yet; who has only a new certificate has only that bundle."""
    for entry in (
        issued("cart", "a", "oldest"),
        issued("cart", "a", "old", minute=10),
        issued("cart", "a", "new", minute=20),
        issued("pay", "a", "new", minute=20),
    ):
        await database.append(entry)
    assert {"old": 1, "new": 2} == await holdings(database, minutes=21, settled=19)
    await database.append(issued("cart", "a", "new", minute=20))  # once more: it is the same holder
    assert {"old": 1, "new": 2} == await holdings(database, minutes=21, settled=19)
    assert {"new": 2} == await holdings(database, minutes=21, settled=20)
    found = await database.read(
        lambda transaction: transaction.authorities.nodes_without(
            ["new"], NOW + timedelta(minutes=21), NOW + timedelta(minutes=19), 10
        )
    )
    assert [("a", 1)] == [(one.node, one.holders) for one in found]


async def test_workloads_that_ask_for_themselves_hold_one_each(database: Database) -> None:
    """Two pods of one account on one node: the newer one's bundle says nothing about the older one."""
    await database.append(issued("cart", "a", "old", actor="workload:shop/cart", callerPod="cart-1"))
    await database.append(issued("cart", "a", "new", minute=1, actor="workload:shop/cart", callerPod="cart-2"))
    await database.append(issued("pay", "a", "old", actor="workload:shop/pay", serial="0a"))
    await database.append(issued("pay", "a", "new", minute=1, actor="workload:shop/pay", serial="0b"))
    assert {"old": 2, "new": 2} == await holdings(database)


async def test_nodes_without_a_bundle_are_listed_and_bounded(database: Database) -> None:
    """Those with the most workloads first."""
    for account, node, bundle in (("a", "n1", "old"), ("b", "n1", "old"), ("c", "n2", "old"), ("d", "n3", "new")):
        await database.append(issued(account, node, bundle))
    end = NOW.replace(microsecond=0) + HOUR

    async def without(limit: int, *bundles: str) -> tuple[NodeHolding, ...]:
        return await database.read(lambda transaction: transaction.authorities.nodes_without(bundles, NOW, NOW, limit))

    expected = [
        NodeHolding(cluster="Kubernetes", node="n1", holders=2, until=end),
        NodeHolding(cluster="Kubernetes", node="n2", holders=1, until=end),
    ]
    assert expected == list(await without(10, "new"))
    assert expected[:1] == list(await without(1, "new"))
    assert 3 == len(await without(10))


async def test_the_last_end_of_what_an_authority_signed(database: Database) -> None:
    """Of unexpired certificates of every purpose."""
    await database.append(issued("cart", "a", "x"))
    await database.append(issued("cart", "a", "x", minute=10, purpose="listener"))
    await database.append(issued("cart", "a", "x", authority="i-2", life=timedelta(seconds=1)))
    found = await database.read(lambda transaction: transaction.authorities.last_ends(NOW + timedelta(minutes=1)))
    assert {"i-1": (NOW + timedelta(minutes=70)).replace(microsecond=0)} == dict(found)


async def test_certificates_of_ours_that_were_put_away_need_no_root(database: Database) -> None:
    """By the word of who presented them; of workloads every certificate counts."""

    def own(serial: str, hours: int, **detail: Any) -> LedgerEntry:
        purpose = "listener" if "replica" in detail else "serving"
        return issued("x", "", "", life=hours * HOUR, serial=serial, purpose=purpose, actor="worker:edge", **detail)

    async def ends(of: str) -> dict[str, int]:
        found = await database.read(lambda transaction: getattr(transaction.authorities, of)(NOW))
        return {authority: round((end - NOW) / HOUR) for authority, end in found.items()}

    for entry in (
        own("01", 24),
        own("02", 2, replaced=[]),
        own("03", 20, authority="i-2", replica="one", started="t1"),
        issued("cart", "a", "x", life=4 * HOUR, serial="04"),
        issued("cart", "a", "x", life=3 * HOUR, serial="05"),
    ):
        await database.append(entry)
    assert {"i-1": 24, "i-2": 20} == await ends("needed_ends")
    await database.append(own("06", 3, replaced=["01", "04"]))
    assert {"i-1": 4, "i-2": 20} == await ends("needed_ends")
    await database.append(own("07", 3, authority="i-3", replica="one", started="t2"))
    assert {"i-1": 4, "i-3": 3} == await ends("needed_ends")
    assert {"i-1": 24, "i-2": 20, "i-3": 3} == await ends("last_ends")  # whoever stole a key can use it


async def test_replicas_report_and_are_forgotten(database: Database) -> None:
    """By silence, or by name when they leave."""
    for name, minutes in (("a", 0), ("b", 10), ("a", 5), ("c", 10)):
        replica = Replica(id=name, epoch=minutes, seen_at=NOW + timedelta(minutes=minutes))
        await database.write(lambda transaction, replica=replica: transaction.authorities.report_replica(replica))

    async def names() -> list[str]:
        return [one.id for one in await database.read(lambda transaction: transaction.authorities.replicas())]

    assert ["a", "b", "c"] == await names()
    limit = NOW + timedelta(minutes=6)
    await database.write(lambda transaction: transaction.authorities.forget_replicas(seen_before=limit, replica_id="c"))
    assert ["b"] == await names()


async def test_an_act_is_decided_once(database: Database) -> None:
    """The second decision is a conflict, and changes nothing."""
    act = PendingAct(
        id="a1",
        kind="authority.step",
        body="{}",
        sha256="00",
        state=ActState.PENDING,
        requested_by="t1",
        requested_name="alice",
        requested_at=NOW,
        expires_at=NOW + HOUR,
    )
    await database.write(lambda transaction: transaction.pending_acts.add(act))
    assert 1 == await database.read(lambda transaction: transaction.pending_acts.count_open(NOW))
    assert 0 == await database.read(lambda transaction: transaction.pending_acts.count_open(NOW + HOUR))
    approved = replace(act, state=ActState.APPROVED, decided_by="t2", decided_name="bob", decided_at=NOW)
    await database.write(lambda transaction: transaction.pending_acts.decide(approved))
    rejected = replace(act, state=ActState.REJECTED)
    with pytest.raises(AppError) as caught:
        await database.write(lambda transaction: transaction.pending_acts.decide(rejected))
    assert ErrorCode.CONFLICT is caught.value.code
    assert approved == await database.read(lambda transaction: transaction.pending_acts.find("a1"))
    assert (approved,) == await database.read(lambda transaction: transaction.pending_acts.list(limit=10))
    assert await database.read(lambda transaction: transaction.pending_acts.find("a2")) is None


async def test_the_first_sealed_key_of_a_name_stays(database: Database) -> None:
    """Whoever comes second gets what is stored, so that all replicas use one key."""
    assert await database.get_sealed_key("snapshot") is None
    assert await database.put_sealed_key("snapshot", b"first\x00") == b"first\x00"
    assert await database.put_sealed_key("snapshot", b"second") == b"first\x00"
    assert await database.get_sealed_key("snapshot") == b"first\x00"
