"""Status, inventory, tokens, certificates, the trust bundle, and the OpenAPI document."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from app.authority.certificates.refusals import Refusal
from app.limits import HttpLimits
from app.rest.app import create_routes, rest_body_limits

INVENTORY = {
    "nodes": [{"name": "node-1"}],
    "workloads": [{"namespace": "shop", "name": "web-1", "serviceAccount": "web", "node": "node-1"}],
    "services": [{"namespace": "shop", "name": "orders", "addresses": ["10.0.0.1"], "ports": [80]}],
}


async def test_status(api):
    """The store's numbers, and each worker's last word with its age."""
    now = api.clock.now()
    api.services.workers.record("edge", {"worker": "w1", "number": 3}, now=now - timedelta(seconds=4))
    status = (await api.client.get("/v1/status")).json()

    assert {"version", "snapshotPublicKey", "store", "workers", "placements", "tokenKeys"} == set(status)
    assert [{"worker": "w1", "token": "edge", "seenSecondsAgo": 4.0, "number": 3}] == status["workers"]
    assert 0 == status["store"]["revision"]


async def test_inventory(api):
    """Replaced, added to, taken away from; what GET gives, PUT takes."""
    put = await api.client.put("/v1/inventory", json=INVENTORY)
    got = await api.client.get("/v1/inventory")
    again = await api.client.put(
        "/v1/inventory",
        json={name: value for name, value in got.json().items() if name != "generation"},
        headers={"if-match": got.headers["etag"]},
    )
    patched = await api.client.patch("/v1/inventory", json={"nodes": [{"name": "node-2"}]})
    stale = await api.client.put("/v1/inventory", json=INVENTORY, headers={"if-match": '"0"'})
    deleted = [
        (await api.client.delete(f"/v1/inventory/{path}")).status_code
        for path in ("nodes/node-2", "nodes/node-2", "workloads/shop/web-1", "services/Kubernetes/shop/orders")
    ]

    assert [200, 200, 200, 200, 412] == [each.status_code for each in (put, got, again, patched, stale)]
    assert {"unchanged": 1} == {key: n for key, n in again.json()["workloads"].items() if n}
    assert {"created": 1} == {key: n for key, n in patched.json()["nodes"].items() if n}
    assert [200, 404, 200, 200] == deleted


async def test_an_inventory_that_is_not_one_is_422(api):
    """With pointers, and nothing is stored."""
    response = await api.client.put("/v1/inventory", json={"nodes": [{"nam": "x"}]})

    assert 422 == response.status_code
    assert response.json()["errors"]
    assert 0 == (await api.client.get("/v1/inventory")).json()["generation"]


async def test_tokens(api):
    """Made, listed without secrets, revoked; a name is taken once."""
    made = await api.client.post("/v1/tokens", json={"name": "bob", "expiresInSeconds": 3600})
    again = await api.client.post("/v1/tokens", json={"name": "bob"})
    worker = await api.client.post("/v1/tokens", json={"name": "edge", "role": "worker"})
    listed = await api.client.get("/v1/tokens")
    unknown = await api.client.delete("/v1/tokens/nosuchtoken")

    assert [201, 409, 201, 200, 404] == [each.status_code for each in (made, again, worker, listed, unknown)]
    assert "2026-11-23T13:00:00Z" == made.json()["token"]["expiresAt"]
    assert made.json()["secret"] not in listed.text
    assert {"alice": "admin", "bob": "admin", "edge": "worker"} == {
        item["name"]: item["role"] for item in listed.json()["items"]
    }


async def test_signed_tokens(api):
    """For nodes and workloads, with the lifetime that was asked for."""
    node = await api.client.post("/v1/tokens/node", json={"node": "node-1", "lifetimeSeconds": 60})
    workload = await api.client.post("/v1/tokens/workload", json={"namespace": "shop", "serviceAccount": "web"})

    assert [201, 201] == [node.status_code, workload.status_code]
    assert "2026-11-23T12:01:00Z" == node.json()["expiresAt"]
    assert "minted.shop.web." == workload.json()["token"]


async def test_certificate_explanations(api):
    """By request id, or by asking again."""
    api.refusals.record(Refusal(request_id="r-1", time=api.clock.now(), step="csr", code="invalid", reason="weak key"))
    await api.client.put("/v1/inventory", json=INVENTORY)
    refused = await api.client.get("/v1/ca/refusals/r-1")
    query = {"node": "node-1", "identity": "spiffe://cluster.local/ns/shop/sa/web"}
    granted = await api.client.get("/v1/ca/explain", params=query)
    wrong = await api.client.get("/v1/ca/explain", params={"caller": "web"})

    assert ("weak key", "granted") == (refused.json()["reason"], granted.json()["outcome"])
    assert 422 == wrong.status_code


def test_the_committed_openapi_document_is_current():
    """scripts/generate-openapi was run after the last change of a route."""
    committed = Path(__file__).resolve().parents[3] / "docs" / "openapi.json"

    assert json.loads(committed.read_text(encoding="utf-8")) == create_routes(None).openapi()


def _operations():
    for path, operations in create_routes(None).openapi()["paths"].items():
        for method, operation in operations.items():
            yield pytest.param(path, operation, id=f"{method} {path}")


@pytest.mark.parametrize(("path", "operation"), list(_operations()))
def test_every_operation_is_described(path, operation):
    """With a sentence, problems as its errors, and a token where one is needed."""
    assert operation["description"]
    assert "application/problem+json" in operation["responses"]["4XX"]["content"]
    assert "422" not in operation["responses"]
    is_public = path in {
        "/livez",
        "/v1/trust-bundle",
        "/v1/trust-bundle.pem",
        "/v1/spiffe-bundle",
        "/v1/spiffe-bundle/own",
        "/v1/ca/crl",
        "/v1/ca/crl/{issuer}",
    }
    assert is_public == (operation.get("security") == [])


def test_references_of_the_openapi_document_resolve():
    """Nothing points into the void."""
    document = create_routes(None).openapi()
    text = json.dumps(document)
    names = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}

    assert "3.1.0" == document["openapi"]
    assert names <= set(document["components"]["schemas"])
    assert "HTTPValidationError" not in text


def test_imports_may_be_larger():
    """The bound of batches and inventories is by path."""
    limits = rest_body_limits(HttpLimits(max_import_bytes=7))

    assert dict.fromkeys(("/v1/apply", "/v1/diff", "/v1/inventory", "/v1/lint"), 7) == dict(limits)


async def test_each_cluster_has_its_own_inventory(api):
    """By id or alias; replacing one leaves the others, and what is of no cluster is the local one's."""
    put = await api.client.put("/v1/inventory?cluster=e", json={**INVENTORY, "services": []})
    local = await api.client.put("/v1/inventory?cluster=primary", json={"nodes": [{"name": "node-9", "cluster": ""}]})
    got = (await api.client.get("/v1/inventory")).json()
    named = await api.client.patch(
        "/v1/inventory", json={"nodes": [{"name": "node-2", "banned": True, "cluster": "e"}]}
    )
    gone = await api.client.delete("/v1/inventory/workloads/shop/web-1?cluster=east")

    assert [200] * 4 == [each.status_code for each in (put, local, named, gone)]
    assert [("node-1", "east"), ("node-9", "")] == [(node["name"], node["cluster"]) for node in got["nodes"]]
    assert ["east"] == [workload["cluster"] for workload in got["workloads"]]
    await api.services.placements.named("east")[1].view.refresh()
    assert {"node-2"} == api.services.placements.named("east")[1].bans()
    assert set() == api.services.placements.named("")[1].bans()


@pytest.mark.parametrize(
    ("query", "body", "status"),
    [
        ("cluster=nowhere", {}, 404),
        ("cluster=east", INVENTORY, 422),  # services
        ("", {"nodes": [{"name": "n", "cluster": "east"}]}, 422),  # replaces the local one
        ("", {"nodes": [{"name": "n", "cluster": "nowhere"}]}, 422),
        ("", {"nodes": [{"name": "n", "cluster": 7}]}, 422),
        ("lease=5s", {}, 422),
        ("lease=9999d", {}, 422),
        ("lease=2", {}, 422),
        ("lease=-1s", {}, 422),
    ],
)
async def test_what_would_surprise_is_refused(api, query, body, status):
    """And nothing is stored."""
    response = await api.client.put(f"/v1/inventory?{query}", json=body)

    assert status == response.status_code, response.text
    assert 0 == (await api.client.get("/v1/inventory")).json()["generation"]


async def test_a_lease_is_a_promise_that_ends_the_placement_when_it_is_broken(api):
    """Given with the inventory, renewed by itself, ended by `none`; each cluster has its own."""
    source = api.services.placements.named("")[1]

    async def usable():
        await source.view.refresh()
        return source.describe().usable

    put = await api.client.put("/v1/inventory?lease=2m", json=INVENTORY)
    kept = await api.client.patch("/v1/inventory", json={"nodes": [{"name": "node-3"}]})
    assert ("2026-11-23T12:02:00Z", None) == (put.json()["leaseUntil"], kept.json()["leaseUntil"])
    api.clock.advance(timedelta(seconds=119))
    assert await usable()
    renewed = await api.client.put("/v1/inventory/lease?lease=60s")
    api.clock.advance(timedelta(seconds=60))
    assert await usable()
    api.clock.advance(timedelta(seconds=1))
    assert not await usable()
    [local, east] = (await api.client.get("/v1/inventory/sources")).json()["items"]
    refused = await api.client.get("/v1/ca/explain?node=node-1&identity=spiffe://cluster.local/ns/shop/sa/web")
    ended = await api.client.put("/v1/inventory/lease?lease=none")

    assert {"cluster": "Kubernetes", "leaseUntil": "2026-11-23T12:02:59Z"} == renewed.json()
    assert (False, "2026-11-23T12:02:59+00:00") == (local["usable"], local["leaseUntil"])
    assert "did not renew" in local["problem"]
    assert (True, "") == (east["usable"], east["problem"])
    assert ("refused", ["authorize"]) == (
        refused.json()["outcome"],
        [step["name"] for step in refused.json()["steps"] if step["outcome"] == "refused"],
    )
    assert "did not renew" in refused.json()["reason"]
    assert {"cluster": "Kubernetes", "leaseUntil": None} == ended.json()
    assert await usable()
    assert 422 == (await api.client.put("/v1/inventory/lease")).status_code


async def test_explain_names_the_cluster_and_its_source(api):
    """The same names in another cluster are another question."""
    await api.client.put("/v1/inventory", json=INVENTORY)
    asked = "/v1/ca/explain?node=node-1&identity=spiffe://cluster.local/ns/shop/sa/web"
    here, there, nowhere = [await api.client.get(asked + more) for more in ("", "&cluster=e", "&cluster=x")]

    assert ("granted", "Kubernetes", "database") == tuple(
        here.json()[name] if name != "source" else here.json()["source"]["kind"]
        for name in ("outcome", "cluster", "source")
    )
    assert 200 == there.status_code, there.text
    assert ("refused", "east") == (there.json()["outcome"], there.json()["cluster"])
    assert 404 == nowhere.status_code
