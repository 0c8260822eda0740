"""Bodies: media types, sizes, syntax."""

from __future__ import annotations

import dataclasses

import pytest

from app.errors import ErrorCode
from app.limits import HttpLimits, Limits
from tests.support.api import running_api

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    "content_type",
    [
        "", "text/plain", "application/xml", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
        "application/json; charset=latin-1", "application/merge-patch+json", "application/jsonx", "json",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/v1/policies/Mesh/-/mesh"), ("POST", "/v1/apply"), ("PATCH", "/v1/inventory"), ("POST", "/v1/tokens"),
        ("POST", "/v1/explain"), ("POST", "/v1/rollback"),
    ],
)  # fmt: skip
async def test_case_114_wrong_content_types_are_415(shared_api, method, path, content_type):
    """A body is JSON, or YAML where documents go, and says so."""
    response = await shared_api.client.request(method, path, content=b"{}", headers={"content-type": content_type})

    assert (415, ErrorCode.UNSUPPORTED_MEDIA_TYPE) == (response.status_code, response.json()["code"])


@pytest.mark.parametrize("content_type", ["application/yaml", "text/yaml"])
async def test_case_114_yaml_is_for_documents_only(shared_api, content_type):
    """The other bodies are JSON."""
    response = await shared_api.client.post("/v1/tokens", content=b"name: x", headers={"content-type": content_type})

    assert 415 == response.status_code


async def test_compressed_bodies_are_415(shared_api):
    """No decompression bomb: nothing is decompressed."""
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    response = await shared_api.client.post("/v1/apply", content=b"\x1f\x8b", headers=headers)

    assert 415 == response.status_code


@pytest.mark.parametrize(
    ("path", "size", "status"),
    [("/v1/tokens", 2_000, 413), ("/v1/apply", 2_000, 422), ("/v1/apply", 9_000, 413), ("/v1/inventory", 9_000, 413)],
)
async def test_case_112_large_bodies_are_413(tmp_path, path, size, status):
    """Also without a listener in front, and with a bound of its own for imports."""
    limits = dataclasses.replace(Limits(), http=HttpLimits(max_body_bytes=1_000, max_import_bytes=8_000))
    body = b'{"pad": "' + b"x" * size + b'"}'

    async def chunks():
        for start in range(0, len(body), 100):
            yield body[start : start + 100]

    async with running_api(tmp_path, limits) as api:
        response = await api.client.request(
            "PUT" if path == "/v1/inventory" else "POST",
            path,
            content=chunks(),
            headers={"content-type": "application/json"},
        )

    assert status == response.status_code


@pytest.mark.parametrize("body", [b"", b"{", b"[1,]", b"{'a': 1}", b"NaN", b"\xff", b"{} {}"])
async def test_broken_json_is_400(shared_api, body):
    """With the place, not with a trace."""
    response = await shared_api.client.post("/v1/apply", content=body, headers={"content-type": "application/json"})

    assert (400, ErrorCode.MALFORMED) == (response.status_code, response.json()["code"])


@pytest.mark.parametrize("body", [b"a: [1", b"\xff", b"a: b: c"])
async def test_broken_yaml_is_400(shared_api, body):
    """The same for YAML."""
    response = await shared_api.client.post("/v1/apply", content=body, headers={"content-type": "application/yaml"})

    assert (400, ErrorCode.MALFORMED) == (response.status_code, response.json()["code"])


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b'{"kind": "Mesh", "kind": "Mesh"}'),
        ("application/yaml", b"kind: Mesh\nkind: Mesh\n"),
        ("application/yaml", b"a: &a [x]\nb: *a\n"),
        ("application/yaml", b"!!python/object/apply:os.system ['true']"),
        ("application/json", b"[" * 5_000 + b"]" * 5_000),
    ],
)
async def test_case_099_100_duplicates_bombs_and_tags_are_422(shared_api, content_type, body):
    """Before a document is looked at."""
    response = await shared_api.client.put(
        "/v1/policies/Mesh/-/mesh", content=body, headers={"content-type": content_type}
    )

    assert (422, ErrorCode.INVALID) == (response.status_code, response.json()["code"])


@pytest.mark.parametrize("count", [0, 2])
async def test_a_document_path_takes_one_document(shared_api, count):
    """Several go to /v1/apply."""
    response = await shared_api.client.put("/v1/policies/Mesh/-/mesh", json=[{}] * count)

    assert 422 == response.status_code


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        ("/v1/tokens", {}, "/name"),
        ("/v1/tokens", {"name": "x", "extra": 1}, "/extra"),
        ("/v1/tokens", {"name": "x", "role": "root"}, "/role"),
        ("/v1/tokens", {"name": "x", "expiresInSeconds": 1}, "/expiresInSeconds"),
        ("/v1/tokens", [], ""),
        ("/v1/rollback", {"revision": -1}, "/revision"),
        ("/v1/rollback", {"revision": 1, "document": {"kind": "Mesh"}}, "/document/name"),
        ("/v1/rollback", {"revision": 1, "include": ["Grant", "Mesh"]}, "/include/1"),
        ("/v1/rollback", {"revision": 1, "include": "Grant"}, "/include"),
        ("/v1/rollback", {"revision": 1, "document": {"kind": "Mesh", "name": "m"}, "include": ["Grant"]}, ""),
        ("/v1/tokens/node", {"node": "n", "lifetimeSeconds": 10**12}, "/lifetimeSeconds"),
    ],
)
async def test_wrong_shapes_are_422_with_pointers(shared_api, path, body, pointer):
    """The problem says where."""
    response = await shared_api.client.post(path, json=body)

    assert 422 == response.status_code
    assert pointer == response.json()["errors"][0]["pointer"]
