"""Quarantine, certificates and revocation lists over the API."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509

from app.ca.lifecycle import Replica
from tests.support.api import Api
from tests.support.quarantines import quarantine

CART = "spiffe://cluster.local/ns/shop/sa/cart"


async def worker_says(api: Api, number: int | None, name: str = "worker-1") -> None:
    """A worker's report, as the link takes it."""
    api.services.workers.record("local", {"worker": name, "number": number}, now=api.clock.now())


async def add(api: Api, wait: float = 0, **body: Any) -> Any:
    return await api.client.post(
        "/v1/quarantines", params={"waitSeconds": wait}, json={"reason": "key seen in a paste", **body}
    )


async def test_the_receipt_says_who_confirmed_and_what_is_not_cut(api: Api) -> None:
    """Workers that are behind, certificates that stay valid, and the list that revokes them."""
    issued = await api.kit.issue()
    await api.kit.issue(node="node-b")
    await worker_says(api, 0)
    await worker_says(api, 99, "worker-2")
    answer = await add(api, identity=CART)
    receipt = answer.json()

    assert 201 == answer.status_code
    assert ("cart-000000", "holds", "stopped") == (receipt["name"], receipt["state"], receipt["issuing"])
    assert ["worker-2"] == receipt["workers"]["confirmed"]
    assert [("worker-1", 0)] == [(one["worker"], one["serves"]) for one in receipt["workers"]["notConfirmed"]]
    assert 2 == receipt["certificates"]["count"]
    assert ["node-a", "node-b"] == receipt["certificates"]["nodes"]
    assert issued.svid.not_after.isoformat() == receipt["certificates"]["validUntil"]
    assert [2] == [crl["revoked"] for crl in receipt["crls"]]
    assert ["certificates", "decision workers"] == [one["what"] for one in receipt["notCut"]]


async def test_the_answer_waits_for_live_workers_and_no_longer_than_it_may(api: Api) -> None:
    """It comes as soon as the last of them confirmed."""
    await worker_says(api, 0)
    asking = asyncio.create_task(add(api, wait=30, node="node-a"))
    async with asyncio.timeout(10):
        while not (listed := (await api.client.get("/v1/quarantines")).json()["items"]):
            await asyncio.sleep(0.005)
    still_waiting = not asking.done()
    await worker_says(api, 1)
    receipt = (await asking).json()

    assert still_waiting
    assert ["node-a-000000"] == [one["name"] for one in listed]
    assert ["worker-1"] == receipt["workers"]["confirmed"]
    assert ["requests through proxies that do not send the peer's certificate"] == [
        one["what"] for one in receipt["notCut"]
    ]


async def test_a_worker_that_is_silent_is_named_and_not_waited_for(api: Api) -> None:
    """It may be gone for good."""
    await worker_says(api, 0)
    api.clock.advance(timedelta(seconds=6))
    async with asyncio.timeout(5):
        receipt = (await add(api, wait=30, identity=CART)).json()

    assert ["worker-1"] == [one["worker"] for one in receipt["workers"]["notConfirmed"]]


async def test_without_workers_nobody_confirmed(api: Api) -> None:
    """An empty list of workers is not success."""
    receipt = (await add(api, wait=30, identity=CART)).json()
    assert ["decision workers"] == [one["what"] for one in receipt["notCut"]]


async def test_lifting_restores_and_the_name_is_free_again(api: Api) -> None:
    """The receipt of the lift says who still denies."""
    await worker_says(api, 1)
    await add(api, identity=CART, name="q")
    shown = (await api.client.get("/v1/quarantines/q")).json()
    lifted = await api.client.delete("/v1/quarantines/q", params={"waitSeconds": 0, "reason": "rotated"})
    gone = await api.client.get("/v1/quarantines/q")

    assert ("holds", "lifted", "allowed") == (shown["state"], lifted.json()["state"], lifted.json()["issuing"])
    assert [["worker-1"]] == [one["workers"] for one in lifted.json()["notCut"]]
    assert 404 == gone.status_code
    assert 201 == (await add(api, identity=CART, name="q")).status_code


async def test_a_quarantine_is_a_policy_document_like_any_other(api: Api) -> None:
    """`policy get` shows it, and its end is part of it."""
    await add(api, identity=CART, name="q", forSeconds=7_200)
    document = (await api.client.get("/v1/policies/Quarantine/-/q")).json()
    api.clock.advance(timedelta(hours=2))
    ended = (await api.client.get("/v1/quarantines/q")).json()

    assert {"identity": CART, "reason": "key seen in a paste", "until": "2026-11-23T14:00:00+00:00"} == document["spec"]
    assert ("ended", "allowed", []) == (ended["state"], ended["issuing"], ended["notCut"])


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"identity": CART, "node": "a"}, 422),
        ({"identity": "cart"}, 422),
        ({"identity": CART, "reason": ""}, 422),
        ({"identity": CART, "until": "2030-01-01T00:00:00Z", "forSeconds": 5}, 422),
        ({"identity": CART, "forSeconds": 0}, 422),
        ({"identity": CART, "name": "../q"}, 422),
        ({"identity": CART, "colour": "red"}, 422),
    ],
)
@pytest.mark.asyncio(loop_scope="module")
async def test_what_is_no_quarantine_is_refused(shared_api: Api, body: dict[str, Any], status: int) -> None:
    """With a problem that says what to write, and nothing stored."""
    answer = await add(shared_api, **body)
    assert status == answer.status_code
    assert [] == (await shared_api.client.get("/v1/quarantines")).json()["items"]


async def test_a_name_that_is_taken_is_told(api: Api) -> None:
    """Nothing is replaced by accident."""
    await add(api, identity=CART, name="q")
    assert 409 == (await add(api, node="node-a", name="q")).status_code


async def test_revocation_lists_are_public_and_conditional(api: Api) -> None:
    """PEM of all, DER of one; whoever has it already is told so."""
    issued = await api.kit.issue()
    await add(api, identity=CART)
    async with api.anonymous() as nobody:
        pem = await nobody.get("/v1/ca/crl")
        again = await nobody.get("/v1/ca/crl", headers={"if-none-match": pem.headers["etag"]})
        refused = await nobody.get("/v1/ca/crls")
        listed = (await api.client.get("/v1/ca/crls")).json()
        one = await nobody.get(f"/v1/ca/crl/{issued.svid.certificate and listed['items'][0]['issuer']}")
        unknown = await nobody.get("/v1/ca/crl/unknown")
    lists = x509.load_der_x509_crl(one.content)

    assert (200, "application/x-pem-file", 2) == (
        pem.status_code,
        pem.headers["content-type"],
        pem.text.count("BEGIN X509 CRL"),
    )
    assert "GMT" in pem.headers["last-modified"]
    assert (304, b"") == (again.status_code, again.content)
    assert (401, 404) == (refused.status_code, unknown.status_code)
    assert "application/pkix-crl" == one.headers["content-type"]
    assert listed["items"][0]["revoked"] == len(lists)
    assert [] == listed["unpublished"]


async def test_certificates_are_listed_page_by_page_and_shown_with_their_entry(api: Api) -> None:
    """Newest first; the page token is opaque and belongs to its filter."""
    first = await api.kit.issue()
    await asyncio.sleep(0.002)
    second = await api.kit.issue(node="node-b", account="web")
    await add(api, identity=CART, name="q")
    page = (await api.client.get("/v1/certificates", params={"pageSize": 1, "current": "true"})).json()
    api.clock.advance(timedelta(seconds=5))
    rest = (
        await api.client.get(
            "/v1/certificates", params={"pageSize": 1, "current": "true", "pageToken": page["nextPageToken"]}
        )
    ).json()
    other = await api.client.get("/v1/certificates", params={"pageToken": page["nextPageToken"], "node": "node-a"})
    shown = (await api.client.get(f"/v1/certificates/{first.svid.serial_hex}")).json()

    assert [(second.svid.serial_hex, None)] == [(one["serial"], one["quarantine"]) for one in page["items"]]
    assert [(first.svid.serial_hex, "q")] == [(one["serial"], one["quarantine"]) for one in rest["items"]]
    assert "" == rest["nextPageToken"]
    assert 422 == other.status_code
    assert (CART, True, "q") == (shown["identity"], shown["onCrl"], shown["quarantine"])
    assert [CART] == shown["certificate"]["names"]
    assert first.svid.pem == shown["certificate"]["pem"]
    assert "certificate.issued" == shown["entry"]["kind"]
    assert shown["ledger"]["uid"] in shown["ledger"]["proof"]


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"serial": "xyz"}, 422),
        ({"identity": "*a*"}, 422),
        ({"expiringBefore": "2030-01-01T00:00:00"}, 422),
        ({"pageToken": "AAAA"}, 422),
        ({"colour": "red"}, 422),
    ],
)
@pytest.mark.asyncio(loop_scope="module")
async def test_a_question_about_certificates_that_means_nothing_is_refused(
    shared_api: Api, query: dict[str, str], status: int
) -> None:
    """Instead of an empty answer."""
    assert status == (await shared_api.client.get("/v1/certificates", params=query)).status_code


async def test_a_serial_that_is_on_no_record_is_not_found(api: Api) -> None:
    """Whatever it looks like."""
    answers = [(await api.client.get(f"/v1/certificates/{text}")).status_code for text in ("abcdef", "xyz")]
    assert [404, 404] == answers


async def test_overdue_renewals_say_whether_the_workload_is_still_there(api: Api) -> None:
    """As far as the inventory knows."""
    inventory = {"workloads": [{"namespace": "shop", "name": "w", "serviceAccount": "cart", "node": "node-a"}]}
    await api.client.put("/v1/inventory", json=inventory)
    await api.kit.issue(ttl_seconds=43_200)
    await api.kit.issue(node="node-b", ttl_seconds=43_200)
    before = (await api.client.get("/v1/certificates/overdue")).json()
    api.clock.advance(timedelta(hours=8))
    await api.inventory.refresh()
    late = (await api.client.get("/v1/certificates/overdue", params={"limit": 10})).json()
    listed = (await api.client.get("/v1/certificates/overdue", params={"limit": 1})).json()

    assert (0, []) == (before["count"], before["items"])
    assert {("node-a", True), ("node-b", False)} == {(one["node"], one["placed"]) for one in late["items"]}
    assert (2, 1) == (listed["count"], len(listed["items"]))


async def test_a_bad_cursor_is_told(api: Api) -> None:
    """A cursor is what the answer before said."""
    answer = await api.client.get("/v1/certificates/watch", params={"cursor": "zz", "waitSeconds": 0})
    assert 422 == answer.status_code


async def test_workers_of_other_replicas_are_not_claimed(api: Api) -> None:
    """While another replica of the authority runs, "all confirmed" is not known; a dead one is forgotten in time."""
    await worker_says(api, 99)

    async def report(replica: str) -> None:
        seen = Replica(id=replica, epoch=1, seen_at=api.clock.now())
        await api.kit.database.write(lambda transaction: transaction.authorities.report_replica(seen))

    await report("one")
    alone = (await add(api, identity=CART, name="q")).json()
    await report("other")
    both = (await api.client.get("/v1/quarantines/q")).json()
    api.clock.advance(timedelta(hours=1, seconds=1))
    later = (await api.client.get("/v1/quarantines/q")).json()
    await report("other")
    lifted = (await api.client.delete("/v1/quarantines/q")).json()

    assert [0, 1, 0, 1] == [one["workers"]["otherReplicas"] for one in (alone, both, later, lifted)]
    elsewhere = "decision workers of other replicas of the authority"
    assert [False, True, False, True] == [
        elsewhere in [item["what"] for item in one["notCut"]] for one in (alone, both, later, lifted)
    ]


@pytest.mark.parametrize(
    ("subject", "says"),
    [
        ({"namespace": "gatehouse-system", "serviceAccount": "authority"}, "the authority itself"),
        ({"identity": "spiffe://cluster.local/ns/gatehouse-system/sa/decision-worker"}, "all decision workers"),
        ({"identity": "spiffe://cluster.local/ns/istio-system/sa/ztunnel"}, "every node proxy"),
        ({"identity": CART}, ""),
    ],
    ids=("authority", "workers", "node proxies", "a workload"),
)
async def test_a_quarantine_that_stops_more_than_it_names_is_warned_of(
    api: Api, subject: dict[str, str], says: str
) -> None:
    """In the receipt, and where it is applied as a document, also by a dry run."""
    document = quarantine("dry", **subject)
    path = "/v1/policies/Quarantine/-/dry"
    tried = (await api.client.put(path, json=document, params={"dryRun": "All"})).json()
    receipt = (await add(api, **subject)).json()

    for warnings in (receipt["warnings"], [warning["message"] for warning in tried["changes"][0]["warnings"]]):
        assert [bool(says)] * len(warnings) == [says in warning for warning in warnings]
        assert bool(says) == bool(warnings)
