"""Findings over the API, and the bad documents that it refuses, by their number."""

from __future__ import annotations

from typing import Any

import pytest

from app.errors import ErrorCode

PATH = "/v1/policies/AuthorizationPolicy/shop/readers"


def _policy(rules: Any, *, name: str = "readers", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"action": "ALLOW", "rules": rules, **spec},
    }


def _path(value: str) -> list[dict[str, Any]]:
    return [{"to": [{"operation": {"paths": [value]}}]}]


_REF = {"targetRefs": [{"kind": "Service", "name": "orders"}]}
_AT = "/spec/rules/0/to/0/operation/paths/0"


@pytest.mark.parametrize(
    ("number", "document", "pointer"),
    [
        (98, {**_policy([]), "spec": {"rulez": []}}, "/spec/rulez"),
        (98, _policy([{"form": []}]), "/spec/rules/0/form"),
        (98, {**_policy([{}]), "extra": 1}, "/extra"),
        (101, _policy(_path("/" + "a" * 1_024)), _AT),
        (103, _policy([{"from": [{"source": {"principals": []}}]}]), "/spec/rules/0/from/0/source/principals"),
        (104, _policy([{"from": [{"source": {}}]}]), "/spec/rules/0/from/0/source"),
        (104, _policy([{"to": [{"operation": {"paths": [""]}}]}]), _AT),
        (104, _policy([{"when": [{"key": "", "values": ["a"]}]}]), "/spec/rules/0/when/0/key"),
    ],
)
async def test_cases_098_101_103_104_are_422_with_a_pointer(shared_api, number, document, pointer):
    """What is not known, too long, empty or blank is refused where it stands, by the write and by the lint alike."""
    written = await shared_api.client.put(PATH, json=document)
    looked_at = await shared_api.client.post("/v1/lint", json=document)

    assert (422, ErrorCode.INVALID) == (written.status_code, written.json()["code"]), number
    assert pointer in [error["pointer"] for error in written.json()["errors"]]
    assert 200 == looked_at.status_code
    errors = [found for found in looked_at.json()["findings"] if found["severity"] == "error"]
    assert pointer in [found["pointer"] for found in errors]
    assert [0] * len(errors) == [found["index"] for found in errors]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b'{"kind": "Mesh", "kind": "Mesh"}'),
        ("application/json", b'{"spec": {"rules": [], "rules": [{}]}}'),
        ("application/yaml", b"spec:\n  rules: []\n  rules: [{}]\n"),
    ],
)
@pytest.mark.parametrize(("method", "path"), [("PUT", PATH), ("POST", "/v1/apply"), ("POST", "/v1/lint")])
async def test_case_099_duplicate_keys_are_422(shared_api, method, path, content_type, body):
    """At any depth, in JSON and YAML, wherever documents come in."""
    response = await shared_api.client.request(method, path, content=body, headers={"content-type": content_type})

    assert (422, ErrorCode.INVALID) == (response.status_code, response.json()["code"])
    assert "twice" in response.json()["detail"]


@pytest.mark.parametrize(
    "body",
    [
        b"a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]\n",
        b"spec: !!python/object/apply:os.system ['true']\n",
        b"spec:\n  <<: {rules: []}\n",
    ],
)
@pytest.mark.parametrize("path", ["/v1/apply", "/v1/lint"])
async def test_case_100_yaml_bombs_and_tags_are_422(shared_api, path, body):
    """Nothing is built of what the text does not spell out."""
    response = await shared_api.client.post(path, content=body, headers={"content-type": "application/yaml"})

    assert (422, ErrorCode.INVALID) == (response.status_code, response.json()["code"])


@pytest.mark.parametrize(
    ("number", "value", "other"),
    [
        (101, "/(a+)+$", "/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!"),
        (101, "/[a-z]", "/b"),
        (102, "/a++b", "/aab"),
        (102, "/a.c", "/abc"),
    ],
)
async def test_cases_101_102_what_looks_like_a_regex_is_text(api, number, value, other):
    """There are no regular expressions in the language: such a value equals itself and nothing else."""
    stored = await api.client.put(PATH, json=_policy(_path(value)))

    async def allowed(path: str) -> bool:
        question = {"request": {"method": "GET", "path": path}, "target": {"kind": "sidecar", "namespace": "shop"}}
        return (await api.client.post("/v1/explain", json=question)).json()["decision"]["allowed"]

    assert 201 == stored.status_code, number
    assert await allowed(value)
    assert not await allowed(other)


async def test_the_live_set_is_linted(api):
    """A rule that another document makes superfluous, with the key of its document and the revision."""
    wide = _policy([{"to": [{"operation": {"methods": ["GET"]}}]}], name="a", **_REF)
    narrow = _policy([{"to": [{"operation": {"methods": ["GET"], "paths": ["/x"]}}]}], name="b", **_REF)
    await api.client.post("/v1/apply", json=[wide, narrow])

    report = (await api.client.get("/v1/lint")).json()

    assert 1 == report["revision"]
    (shadowed,) = [found for found in report["findings"] if found["code"] == "SHADOWED"]
    assert ("AuthorizationPolicy/shop/b", "/spec/rules/0", None) == (
        shadowed["document"],
        shadowed["pointer"],
        shadowed["index"],
    )


async def test_documents_are_looked_at_in_the_live_set(api):
    """What they change there is told, also about documents that are stored; nothing is stored, nothing repeated."""
    stored = _policy([{"to": [{"operation": {"methods": ["GET"], "hosts": ["h"]}}]}], name="b", **_REF)
    await api.client.post("/v1/apply", json=[stored])
    wide = _policy([{}], name="a", **_REF)

    report = (await api.client.post("/v1/lint", json=[wide])).json()
    after = (await api.client.get("/v1/lint")).json()

    by_document = {(found["index"], found["code"]) for found in report["findings"]}
    assert (None, "SHADOWED") in by_document
    assert (None, "HOST_WITHOUT_PORT") not in by_document
    assert "SHADOWED" not in {found["code"] for found in after["findings"]}


async def test_selectors_are_looked_up_in_the_inventory(api):
    """Where the inventory has workloads."""
    selecting = _policy([{}], selector={"matchLabels": {"app": "orders"}})
    before = (await api.client.post("/v1/lint", json=[selecting])).json()
    workload = {
        "namespace": "shop",
        "name": "web-1",
        "serviceAccount": "web",
        "node": "n",
        "uid": "u",
        "phase": "Running",
        "addresses": [],
        "labels": {"app": "web"},
    }
    pushed = await api.client.put("/v1/inventory", json={"nodes": [], "workloads": [workload], "services": []})
    after = (await api.client.post("/v1/lint", json=[selecting])).json()

    assert 200 == pushed.status_code
    assert "SELECTOR_UNKNOWN" not in {found["code"] for found in before["findings"]}
    assert "SELECTOR_UNKNOWN" in {found["code"] for found in after["findings"]}
