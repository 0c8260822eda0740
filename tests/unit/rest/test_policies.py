"""Policy documents over the API: preconditions, atomicity, history, the shapes of the answers."""

from __future__ import annotations

import asyncio
import copy

import pytest

from app.errors import ErrorCode
from tests.support.grants import grant
from tests.support.quarantines import quarantine

PATH = "/v1/policies/AuthorizationPolicy/shop/readers"
POLICY = {
    "apiVersion": "security.istio.io/v1",
    "kind": "AuthorizationPolicy",
    "metadata": {"name": "readers", "namespace": "shop"},
    "spec": {"action": "ALLOW", "rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]},
}
MESH = {"apiVersion": "gatehouse.dev/v1", "kind": "Mesh", "metadata": {"name": "mesh"}, "spec": {}}


def _policy(*, name: str = "readers", method: str = "GET", **spec) -> dict:
    policy = copy.deepcopy(POLICY)
    policy["metadata"]["name"] = name
    policy["spec"]["rules"][0]["to"][0]["operation"]["methods"] = [method]
    policy["spec"].update(spec)
    return policy


async def test_create_get_replace_delete(api):
    """The whole life of a document, each step with the entity tag of the one before."""
    created = await api.client.put(PATH, json=_policy(), params={"reason": "because"})
    got = await api.client.get(PATH)
    replaced = await api.client.put(PATH, json=_policy(method="POST"), headers={"if-match": got.headers["etag"]})
    deleted = await api.client.delete(PATH, headers={"if-match": replaced.headers["etag"]})
    gone = await api.client.get(PATH)

    assert [201, 200, 200, 200, 404] == [each.status_code for each in (created, got, replaced, deleted, gone)]
    assert PATH == created.headers["location"]
    assert created.headers["etag"] == got.headers["etag"]
    assert POLICY == got.json()
    assert ["created", "configured", "deleted"] == [
        each.json()["changes"][0]["outcome"] for each in (created, replaced, deleted)
    ]
    assert [1, 2, 3] == [each.json()["revision"]["number"] for each in (created, replaced, deleted)]
    assert ("because", "admin:alice") == (created.json()["revision"]["reason"], created.json()["revision"]["author"])


async def test_yaml_as_kubectl_prints_it(api):
    """Status and server-side metadata are dropped; the rest is kept as written."""
    text = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  creationTimestamp: 2026-11-23T10:00:00Z
  generation: 1
  name: readers
  namespace: shop
  resourceVersion: "123"
  uid: 0a8b
spec:
  action: ALLOW
  rules:
  - to:
    - operation:
        methods: [GET]
status: {}
"""
    created = await api.client.put(PATH, content=text.encode(), headers={"content-type": "application/yaml"})

    assert 201 == created.status_code, created.text
    assert POLICY == (await api.client.get(PATH)).json()


async def test_case_106_a_replacement_without_if_match_is_428(api):
    """Nothing changes."""
    await api.client.put(PATH, json=_policy())
    response = await api.client.put(PATH, json=_policy(method="POST"))
    deletion = await api.client.delete(PATH)

    assert (428, ErrorCode.PRECONDITION_REQUIRED) == (response.status_code, response.json()["code"])
    assert 428 == deletion.status_code
    assert POLICY == (await api.client.get(PATH)).json()


@pytest.mark.parametrize("if_match", ['"0000"', 'W/"0000"'])
async def test_case_106_a_stale_if_match_is_412(api, if_match):
    """Nothing changes."""
    await api.client.put(PATH, json=_policy())
    response = await api.client.put(PATH, json=_policy(method="POST"), headers={"if-match": if_match})
    deletion = await api.client.delete(PATH, headers={"if-match": if_match})

    assert (412, ErrorCode.PRECONDITION_FAILED) == (response.status_code, response.json()["code"])
    assert 412 == deletion.status_code
    assert POLICY == (await api.client.get(PATH)).json()


async def test_case_106_if_match_on_what_is_not_there_is_412(api):
    """Also with *."""
    for if_match in ('"0000"', "*"):
        response = await api.client.put(PATH, json=_policy(), headers={"if-match": if_match})
        assert 412 == response.status_code, if_match
    assert 404 == (await api.client.get(PATH)).status_code


async def test_if_none_match_creates_only(api):
    """A second creation is 412; both headers together contradict each other."""
    headers = {"if-none-match": "*"}
    created = await api.client.put(PATH, json=_policy(), headers=headers)
    again = await api.client.put(PATH, json=_policy(method="POST"), headers=headers)
    both = await api.client.put(PATH, json=_policy(), headers={**headers, "if-match": "*"})

    assert [201, 412, 400] == [created.status_code, again.status_code, both.status_code]


async def test_if_match_star_replaces_whatever_is_there(api):
    """For who does not care."""
    await api.client.put(PATH, json=_policy())
    response = await api.client.put(PATH, json=_policy(method="POST"), headers={"if-match": "*"})

    assert 200 == response.status_code


async def test_case_107_of_two_concurrent_updates_one_wins(api):
    """One 200, the others 412, and what is stored is the winner's."""
    etag = (await api.client.put(PATH, json=_policy())).headers["etag"]
    methods = ["PUT", "POST", "PATCH", "DELETE"]
    responses = await asyncio.gather(
        *(api.client.put(PATH, json=_policy(method=method), headers={"if-match": etag}) for method in methods)
    )
    codes = [response.status_code for response in responses]
    stored = (await api.client.get(PATH)).json()

    assert [200, 412, 412, 412] == sorted(codes)
    assert _policy(method=methods[codes.index(200)]) == stored


async def test_an_unchanged_document_is_not_sent_again(api):
    """If-None-Match on GET saves the body."""
    etag = (await api.client.put(PATH, json=_policy())).headers["etag"]
    response = await api.client.get(PATH, headers={"if-none-match": etag})

    assert (304, b"", etag) == (response.status_code, response.content, response.headers["etag"])


async def test_a_dry_run_changes_nothing(api):
    """It answers as the real thing would."""
    planned = await api.client.put(PATH, json=_policy(), params={"dryRun": "All"})

    assert (200, True) == (planned.status_code, planned.json()["dryRun"])
    assert "created" == planned.json()["changes"][0]["outcome"]
    assert 404 == (await api.client.get(PATH)).status_code


@pytest.mark.parametrize(
    ("document", "pointer"),
    [
        (_policy(acton="DENY"), "/spec/acton"),
        (_policy(rules=[{"to": [{"operation": {"method": ["GET"]}}]}]), "/spec/rules/0/to/0/operation/method"),
        (_policy(action="PERMIT"), "/spec/action"),
    ],
)
async def test_case_098_an_unknown_field_is_422_and_named(api, document, pointer):
    """The problem has the JSON pointer of what is wrong."""
    response = await api.client.put(PATH, json=document)

    assert (422, ErrorCode.INVALID) == (response.status_code, response.json()["code"])
    assert pointer in [error["pointer"] for error in response.json()["errors"]]
    assert 404 == (await api.client.get(PATH)).status_code


async def test_the_body_must_be_what_the_path_names(api):
    """No document is stored under another's name."""
    response = await api.client.put(PATH, json=_policy(name="writers"))

    assert 422 == response.status_code


@pytest.mark.parametrize("body", [1, "text", True, {"kind": "Secret"}, {"apiVersion": "v1", "kind": "Pod"}])
async def test_what_is_no_policy_is_422(api, body):
    """Whatever JSON it is."""
    assert 422 == (await api.client.put(PATH, json=body)).status_code


async def test_a_cluster_scoped_document_has_a_dash_for_its_namespace(api):
    """In the path; there is none in the document."""
    created = await api.client.put("/v1/policies/Mesh/-/mesh", json=MESH)

    assert 201 == created.status_code, created.text
    assert "/v1/policies/Mesh/-/mesh" == created.headers["location"]
    assert MESH == (await api.client.get("/v1/policies/Mesh/-/mesh")).json()


async def test_lists_have_filters_and_pages(api):
    """Every document once, in the order of the keys."""
    await api.client.post("/v1/apply", json=[_policy(name=f"p{n}") for n in range(5)] + [MESH])
    found, token = [], ""
    for _ in range(10):
        page = (await api.client.get("/v1/policies", params={"pageSize": 2, "pageToken": token})).json()
        assert len(page["items"]) <= 2
        found += [item["key"] for item in page["items"]]
        token = page["nextPageToken"]
        if not token:
            break
    policies = (await api.client.get("/v1/policies?kind=AuthorizationPolicy&namespace=shop")).json()["items"]
    other = (await api.client.get("/v1/policies?namespace=elsewhere")).json()["items"]

    assert 6 == len(found)
    assert sorted(found) == found
    assert 5 == len(policies)
    assert [] == other
    assert {"key", "kind", "namespace", "name", "etag", "revision", "source", "effect", "content"} == set(policies[0])


async def test_a_page_token_is_bound_to_its_filter(api):
    """It does not open another list."""
    await api.client.post("/v1/apply", json=[_policy(name=f"p{n}") for n in range(3)])
    token = (await api.client.get("/v1/policies?namespace=shop&pageSize=1")).json()["nextPageToken"]
    response = await api.client.get("/v1/policies", params={"pageSize": 1, "pageToken": token})

    assert 422 == response.status_code


async def test_a_batch_is_applied_whole_or_not_at_all(api):
    """The pointers of the problem begin with the index of the document."""
    refused = await api.client.post("/v1/apply", json=[_policy(), _policy(name="bad", acton="DENY")])
    applied = await api.client.post("/v1/apply", json=[_policy(), MESH], params={"reason": "both"})

    assert 422 == refused.status_code
    assert "/1/spec/acton" in [error["pointer"] for error in refused.json()["errors"]]
    assert (200, '"1"') == (applied.status_code, applied.headers["etag"])
    assert ["created", "created"] == [change["outcome"] for change in applied.json()["changes"]]


async def test_a_batch_may_insist_on_the_revision_of_the_set(api):
    """If-Match takes the revision's number."""
    await api.client.put(PATH, json=_policy())
    stale = await api.client.post("/v1/apply", json=[MESH], headers={"if-match": '"0"'})
    current = await api.client.post("/v1/apply", json=[MESH], headers={"if-match": '"1"'})

    assert [412, 200] == [stale.status_code, current.status_code]


async def test_revisions_and_their_changes(api):
    """Each revision says who, why and what."""
    await api.client.put(PATH, json=_policy(), params={"reason": "one"})
    await api.client.post("/v1/apply", json=[_policy(method="POST"), MESH], params={"reason": "two"})
    revisions = (await api.client.get("/v1/revisions")).json()["items"]
    second = (await api.client.get("/v1/revisions/2")).json()
    changes = (await api.client.get("/v1/revisions/2/changes")).json()["items"]
    history = (await api.client.get(PATH + "/history")).json()["items"]

    assert [2, 1, 0] == [revision["number"] for revision in revisions]
    assert ("two", 1, 2) == (second["reason"], second["parent"], second["changes"])
    assert {"AuthorizationPolicy/shop/readers": "configured", "Mesh//mesh": "created"} == {
        change["key"]: change["outcome"] for change in changes
    }
    assert ["two", "one"] == [version["reason"] for version in history]
    assert 404 == (await api.client.get("/v1/revisions/9")).status_code
    assert 404 == (await api.client.get("/v1/policies/Mesh/-/other/history")).status_code


async def test_rollback_of_the_set_and_of_one_document(api):
    """Each is a new revision; an old version can also just be read."""
    await api.client.put(PATH, json=_policy())
    await api.client.post("/v1/apply", json=[_policy(method="POST"), MESH])
    one = {"revision": 1, "document": {"kind": "AuthorizationPolicy", "namespace": "shop", "name": "readers"}}
    document = await api.client.post("/v1/rollback", json=one)
    whole = await api.client.post("/v1/rollback", json={"revision": 1}, params={"reason": "undo"})
    old = await api.client.get(PATH, params={"revision": 2})
    stale = await api.client.post("/v1/rollback", json={"revision": 2}, headers={"if-match": '"1"'})
    missing = await api.client.post("/v1/rollback", json={"revision": 99})

    assert (200, 3) == (document.status_code, document.json()["revision"]["number"])
    assert POLICY == (await api.client.get(PATH)).json()
    assert (200, 4, "undo") == (
        whole.status_code,
        whole.json()["revision"]["number"],
        whole.json()["revision"]["reason"],
    )
    assert 404 == (await api.client.get("/v1/policies/Mesh/-/mesh")).status_code
    assert _policy(method="POST") == old.json()
    assert [412, 404] == [stale.status_code, missing.status_code]


async def test_the_set_goes_back_without_quarantines_and_grants_unless_they_are_included(api):
    """The answer counts and names what stayed; a kind that is included goes back as well."""
    await api.client.put(PATH, json=_policy())
    await api.client.post("/v1/apply", json=[_policy(method="POST"), quarantine(node="n"), grant()])
    kept = await api.client.post("/v1/rollback", json={"revision": 1})
    some = await api.client.post("/v1/rollback", json={"revision": 1, "include": ["Grant"]}, params={"dryRun": "All"})
    both = await api.client.post("/v1/rollback", json={"revision": 1, "include": ["Quarantine", "Grant"]})
    one = {"revision": 2, "document": {"kind": "Quarantine", "name": "q"}}
    back = await api.client.post("/v1/rollback", json=one)

    answers = [response.json() for response in (kept, some, both, back)]
    assert [
        {
            "count": 2,
            "documents": [
                {"key": "Quarantine//q", "ifIncluded": "deleted"},
                {"key": "Grant/shop/g", "ifIncluded": "deleted"},
            ],
        },
        {"count": 1, "documents": [{"key": "Quarantine//q", "ifIncluded": "deleted"}]},
        {"count": 0, "documents": []},
        {"count": 0, "documents": []},
    ] == [answer["kept"] for answer in answers]
    assert [
        ["AuthorizationPolicy/shop/readers"],
        ["Grant/shop/g"],
        ["Grant/shop/g", "Quarantine//q"],
        ["Quarantine//q"],
    ] == [[change["key"] for change in answer["changes"]] for answer in answers]


async def test_explain_over_the_live_set_and_a_revision(api):
    """The decision, the rules, and the revision that it is about."""
    question = {
        "request": {"method": "POST", "path": "/orders"},
        "target": {"kind": "sidecar", "namespace": "shop"},
    }
    await api.client.put(PATH, json=_policy())
    await api.client.put(PATH, json=_policy(method="POST"), headers={"if-match": "*"})
    live = await api.client.post("/v1/explain", json=question)
    old = await api.client.post("/v1/explain", json=question, params={"revision": 1})
    wrong = await api.client.post("/v1/explain", json={"request": {}})
    unknown = await api.client.post("/v1/explain", json=question, params={"revision": 9})

    assert [200, 200, 422, 404] == [each.status_code for each in (live, old, wrong, unknown)]
    assert live.json()["decision"]["allowed"]
    assert not old.json()["decision"]["allowed"]
