"""POST /v1/who-can, /v1/what-can and /v1/diff."""

from __future__ import annotations

import pytest

from tests.unit.rest.test_policies import POLICY

ORDERS = {
    **POLICY,
    "spec": {
        "targetRefs": [{"group": "", "kind": "Service", "name": "orders"}],
        "rules": [
            {
                "from": [{"source": {"principals": ["cluster.local/ns/shop/sa/web"]}}],
                "to": [{"operation": {"methods": ["GET"], "paths": ["/orders*"]}}],
            }
        ],
    },
}
SERVICE = {"service": "shop/orders"}


@pytest.fixture(name="stored")
async def _stored(api):
    assert 200 == (await api.client.post("/v1/apply", json=[ORDERS])).status_code


async def test_who_can(api, stored):
    """Classes of callers, each with the rule, and a request of it that explain takes."""
    question = {"request": {"method": "GET", "path": "/orders"}, **SERVICE}
    answer = (await api.client.post("/v1/who-can", json=question)).json()
    allowed, denied, unavailable = answer["places"][0]["classes"]
    explained = await api.client.post(
        "/v1/explain",
        json={"request": allowed["witness"], "target": {"kind": "waypoint", "namespace": "shop", "service": "orders"}},
    )

    assert 1 == answer["revision"]
    assert ("allow", ["cluster.local/ns/shop/sa/web"]) == (allowed["verdict"], allowed["when"]["caller"]["of"])
    assert ("deny", ["cluster.local/ns/shop/sa/web"]) == (denied["verdict"], denied["when"]["caller"]["anyBut"])
    assert allowed["rule"] == explained.json()["decision"]["rule"]
    assert ("deny", "IDENTITY_UNAVAILABLE") == (unavailable["verdict"], unavailable["reason"])


async def test_what_can(api, stored):
    """The caller in short or in full."""
    for caller in ("shop/web", "spiffe://cluster.local/ns/shop/sa/web"):
        answer = (await api.client.post("/v1/what-can", json={"request": {"source_principal": caller}})).json()
        allowed = [one for place in answer["places"] for one in place["classes"] if one["verdict"] == "allow"]
        assert [{"of": ["/orders*"]}] == [one["when"]["path"] for one in allowed]


async def test_diff(api, stored):
    """The live set against a whole set, against changes to it, and against itself."""
    wider = {**ORDERS, "metadata": {"name": "wider", "namespace": "shop"}, "spec": {**ORDERS["spec"], "rules": [{}]}}
    applied = {"documents": [wider], "over": "live"}
    whole = (await api.client.post("/v1/diff", json={"after": {"documents": []}, **SERVICE})).json()
    over = (await api.client.post("/v1/diff", json={"before": 1, "after": applied, **SERVICE})).json()
    same = (await api.client.post("/v1/diff", json={"before": 1, "after": "live"})).json()

    assert {"deny->allow"} == {one["change"] for one in whole["differences"]}
    assert {"deny->allow"} == {one["change"] for one in over["differences"]}
    assert ([], 1, 1) == (same["differences"], same["before"], same["after"])


async def test_diff_against_what_is_tried_out(api, stored):
    """With `shadow` the live set beside itself differs by its policies in shadow."""
    tried = {"name": "tried", "namespace": "shop", "annotations": {"gatehouse.dev/mode": "shadow"}}
    applied = {"documents": [{**ORDERS, "metadata": tried, "spec": {**ORDERS["spec"], "rules": [{}]}}], "over": "live"}
    enforced = (await api.client.post("/v1/diff", json={"after": applied, **SERVICE})).json()
    proposed = (await api.client.post("/v1/diff", json={"after": applied, "shadow": True, **SERVICE})).json()

    assert [] == enforced["differences"]
    assert (1, {"deny->allow"}) == (proposed["triedOut"], {one["change"] for one in proposed["differences"]})
    assert {"shop/tried"} == {one["after"]["policy"] for one in proposed["differences"]}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("who-can", {"request": {"source_principal": "shop/web"}}, 422),
        ("what-can", {"request": {}}, 422),
        ("what-can", {"request": {"source_principal": "web"}}, 422),
        ("who-can", [], 422),
        ("who-can?revision=7", SERVICE, 404),
        ("diff", [], 422),
        ("diff", {"before": "yesterday"}, 422),
        ("diff", {"before": True}, 422),
        ("diff", {"after": {"documents": {}}}, 422),
        ("diff", {"after": {"documents": [], "over": "x"}}, 422),
        ("diff", {"reasons": "yes", **SERVICE}, 422),
        ("diff", {"shadow": "yes", **SERVICE}, 422),
        ("diff", {"before": 7}, 404),
    ],
)
@pytest.mark.asyncio(loop_scope="module")
async def test_what_is_no_question_is_refused(shared_api, path, body, status):
    """A problem with a sentence, never an internal error."""
    response = await shared_api.client.post(f"/v1/{path}", json=body)

    assert (status, True) == (response.status_code, bool(response.json()["detail"]))
