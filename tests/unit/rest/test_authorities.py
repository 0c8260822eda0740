"""Authorities over REST: how they stand, steps, refusals as 409, and acts that take two administrators."""

from __future__ import annotations

from datetime import timedelta

from app.authority.actor import Actor, Role

MINUTE = timedelta(minutes=1)


async def second_client_headers(api):
    """Another administrator's token; the clock moves on, because a token must be older than the act."""
    made = await api.services.administration.tokens.create(Actor.system(), name="bob", role=Role.ADMIN)
    api.clock.advance(MINUTE)
    return {"authorization": f"Bearer {made.secret}"}


async def prepared(api):
    """A new root and the issuing authority under it."""
    answer = await api.client.post("/v1/authorities", json={"role": "root", "reason": "yearly"})
    assert 201 == answer.status_code, answer.text
    return answer.json()["ids"]


async def test_the_list_says_what_may_be_done_and_what_blocks_it(api):
    """States, ends, coverage, the bundle's sequence; each step with its reason and its time."""
    _, issuing = await prepared(api)
    found = (await api.client.get("/v1/authorities")).json()
    assert (2, ["active", "active", "prepared", "prepared"]) == (
        found["bundle"]["sequence"],
        sorted(item["state"] for item in found["items"]),
    )
    (item,) = (item for item in found["items"] if item["id"] == issuing)
    (activate,) = (step for step in item["steps"] if step["step"] == "activate")
    assert not activate["allowed"]
    assert activate["forcible"]
    assert activate["until"] == "2026-11-23T12:00:45Z"
    assert {"workloads": 0, "covered": 0, "until": None} == item["coverage"]


async def test_one_authority_by_the_beginning_of_its_id(api):
    """With its certificate; unknown ids are 404, and what is no id is a problem with its place."""
    root, _ = await prepared(api)
    shown = (await api.client.get(f"/v1/authorities/{root[:10]}")).json()
    assert root == shown["id"]
    assert shown["certificatePem"].startswith("-----BEGIN CERTIFICATE-----")
    assert [] == shown["nodesWithout"]
    assert 404 == (await api.client.get("/v1/authorities/ffffffffff00")).status_code
    assert (await api.client.get("/v1/authorities/NOT-HEX")).status_code in (404, 422)


async def test_an_unsafe_step_is_a_conflict_with_reason_and_advice(api):
    """409; once it is safe it is done."""
    _, issuing = await prepared(api)
    refused = await api.client.post(f"/v1/authorities/{issuing}/activate", json={})
    assert (409, "failed_precondition") == (refused.status_code, refused.json()["code"])
    assert "What to do: wait a moment" in refused.json()["detail"]
    api.clock.advance(MINUTE)
    done = await api.client.post(f"/v1/authorities/{issuing}/activate", json={"reason": "yearly"})
    assert 200 == done.status_code
    assert "active" == done.json()["changes"][issuing]


async def test_force_waits_for_a_second_administrator(api):
    """202 and an act; the requester's approval is 403, another hash 412, the other one's approval does it."""
    headers = await second_client_headers(api)
    _, issuing = await prepared(api)
    asked = await api.client.post(f"/v1/authorities/{issuing}/activate", json={"force": True})
    assert 202 == asked.status_code
    act = asked.json()["pending"]
    path = f"/v1/pending-acts/{act['id']}/approve"
    assert 403 == (await api.client.post(path, json={"sha256": act["sha256"]})).status_code
    assert 412 == (await api.client.post(path, json={"sha256": "0" * 64}, headers=headers)).status_code
    assert 422 == (await api.client.post(path, json={}, headers=headers)).status_code
    done = await api.client.post(path, json={"sha256": act["sha256"]}, headers=headers)
    assert (200, "active") == (done.status_code, done.json()["changes"][issuing])
    (listed,) = (await api.client.get("/v1/pending-acts")).json()["items"]
    assert ("approved", "alice", "bob") == (listed["state"], listed["requestedName"], listed["decidedName"])


async def test_an_act_can_be_rejected(api):
    """And is a conflict afterwards."""
    headers = await second_client_headers(api)
    _, issuing = await prepared(api)
    act = (await api.client.post(f"/v1/authorities/{issuing}/activate", json={"force": True})).json()["pending"]
    assert 200 == (await api.client.post(f"/v1/pending-acts/{act['id']}/reject")).status_code
    again = await api.client.post(
        f"/v1/pending-acts/{act['id']}/approve", json={"sha256": act["sha256"]}, headers=headers
    )
    assert 409 == again.status_code


async def test_a_csr_and_an_answer_that_is_none(api):
    """201 with the CSR; garbage is refused with a sentence."""
    made = (await api.client.post("/v1/authorities/csr", json={})).json()
    assert made["csrPem"].startswith("-----BEGIN CERTIFICATE REQUEST-----")
    shown = (await api.client.get(f"/v1/authorities/{made['ids'][0]}")).json()
    assert (made["csrPem"], None) == (shown["csrPem"], shown["notAfter"])
    refused = await api.client.post("/v1/authorities/import", json={"pem": "garbage"})
    assert 400 <= refused.status_code < 500


async def test_no_key_leaves_by_the_api(api):
    """Whatever is shown of an authority, sealed bytes are not in it."""
    await prepared(api)
    listing = (await api.client.get("/v1/authorities")).text
    one = (
        await api.client.get(f"/v1/authorities/{(await api.client.get('/v1/authorities')).json()['items'][0]['id']}")
    ).text
    for text in (listing, one):
        assert "PRIVATE" not in text
        assert "GHS1" not in text
        assert "sealedKey" not in text


async def test_without_a_token_nothing_is_shown_or_done(api):
    """401 for every path."""
    async with api.anonymous() as nobody:
        for method, path in (
            ("GET", "/v1/authorities"),
            ("POST", "/v1/authorities"),
            ("POST", "/v1/authorities/abcd/taint"),
            ("GET", "/v1/pending-acts"),
            ("POST", "/v1/pending-acts/ab/approve"),
        ):
            assert 401 == (await nobody.request(method, path)).status_code
