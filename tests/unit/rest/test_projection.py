"""Ownership and projection over the API."""

from __future__ import annotations

import copy
from typing import Any

POLICY: dict[str, Any] = {
    "apiVersion": "security.istio.io/v1",
    "kind": "AuthorizationPolicy",
    "metadata": {"name": "readers", "namespace": "shop"},
    "spec": {
        "targetRefs": [{"kind": "Gateway", "group": "gateway.networking.k8s.io", "name": "waypoint"}],
        "action": "ALLOW",
        "rules": [{"to": [{"operation": {"methods": ["GET"]}}]}],
    },
}
POINT = {
    "apiVersion": "gatehouse.dev/v1",
    "kind": "EnforcementPoint",
    "metadata": {"name": "waypoint", "namespace": "shop"},
    "spec": {"kind": "waypoint", "gateway": "waypoint", "caller": {"listener": "local"}},
}
PATH = "/v1/policies/AuthorizationPolicy/shop/readers"


async def test_another_source_gets_409_unless_it_takes_over(api):
    """The owner is in the problem; `takeOver=true` changes hands; a word that is no source is refused."""
    created = await api.client.put(PATH, json=POLICY, params={"source": "git"})
    headers = {"if-match": "*"}
    refused = await api.client.put(PATH, json=POLICY, headers=headers)
    unknown = await api.client.put(PATH, json=POLICY, headers=headers, params={"source": "ftp"})
    not_deleted = await api.client.delete(PATH, headers=headers)
    taken = await api.client.post("/v1/apply", json=[POLICY], params={"takeOver": "true"})
    (item,) = (await api.client.get("/v1/policies")).json()["items"]
    deleted = await api.client.delete(PATH, headers=headers)

    assert [201, 409, 422, 409, 200, 200] == [
        each.status_code for each in (created, refused, unknown, not_deleted, taken, deleted)
    ]
    assert "owned by git" in refused.json()["detail"]
    assert ("api", "enforced") == (item["source"], item["effect"])


async def test_the_set_as_native_documents(api):
    """Documents, reasons and findings; what is marked alone, with CUSTOM policies, and as it was."""
    lost = copy.deepcopy(POLICY)
    lost["metadata"]["name"] = "paths"
    lost["spec"]["action"] = "DENY"
    lost["spec"]["rules"][0]["to"][0]["operation"]["paths"] = ["/admin"]
    await api.client.post("/v1/apply", json=[POLICY, POINT])
    await api.client.post("/v1/apply", json=[lost])

    live = (await api.client.get("/v1/projection")).json()
    with_custom = (await api.client.get("/v1/projection", params={"withCustom": "true", "marked": "true"})).json()
    before = (await api.client.get("/v1/projection", params={"revision": 1})).json()

    assert {"revision", "documents", "notProjected", "findings"} == live.keys()
    assert ["gatehouse-only-from-waypoint", "readers"] == [each["metadata"]["name"] for each in live["documents"]]
    assert ["/spec/rules/0/to/0/operation/paths"] == [reason["pointer"] for reason in live["notProjected"]]
    assert {"ENFORCED_BY_NOBODY", "WAYPOINT_ASSUMED"} == {finding["code"] for finding in live["findings"]}
    assert ["gatehouse-ask-waypoint", "gatehouse-only-from-waypoint"] == [
        each["metadata"]["name"] for each in with_custom["documents"]
    ]
    assert (1, []) == (before["revision"], before["notProjected"])
