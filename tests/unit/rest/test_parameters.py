"""Query parameters: the known ones within their ranges, and no others."""

from __future__ import annotations

import pytest

from app.errors import ErrorCode

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    "query",
    ["dryrun=All", "unknown=1", "pageSize=10&pagesize=10", "pageSize=10&pageSize=20", "kind=Mesh&kind=Mesh", "x"],
)
async def test_unknown_or_repeated_parameters_are_422(shared_api, query):
    """A misspelt parameter is never ignored."""
    response = await shared_api.client.get(f"/v1/policies?{query}")

    assert (422, ErrorCode.INVALID) == (response.status_code, response.json()["code"])


async def test_the_answer_names_what_is_known(shared_api):
    """So that the mistake is easy to mend."""
    detail = (await shared_api.client.post("/v1/apply?dryrun=All", json=[])).json()["detail"]

    assert "dryrun" in detail
    assert "dryRun, reason" in detail


async def test_a_wrong_dry_run_is_422(shared_api):
    """The value is All or absent, as in Kubernetes."""
    response = await shared_api.client.post("/v1/apply?dryRun=true", json=[])

    assert (422, "dryRun") == (response.status_code, response.json()["errors"][0]["parameter"])


@pytest.mark.parametrize("size", ["1000000000", "1001", "-1", "0", "1.5", "all", "9" * 400, "٣"])
@pytest.mark.parametrize("path", ["/v1/policies", "/v1/revisions", "/v1/policies/Mesh/-/mesh/history"])
async def test_case_111_page_sizes_beyond_the_bound_are_422(shared_api, path, size):
    """Nothing is allocated by a number that a client names."""
    response = await shared_api.client.get(path, params={"pageSize": size})

    assert (422, ErrorCode.INVALID) == (response.status_code, response.json()["code"])


@pytest.mark.parametrize("token", ["x", "AAAA", "eyJhIjoxfQ", "' OR 1=1 --", "a" * 2_048, "a" * 5_000])
@pytest.mark.parametrize("path", ["/v1/policies", "/v1/revisions"])
async def test_case_111_forged_page_tokens_are_422(shared_api, path, token):
    """A page token is ours, or it is refused."""
    response = await shared_api.client.get(path, params={"pageToken": token})

    assert (422, ErrorCode.INVALID) == (response.status_code, response.json()["code"])


@pytest.mark.parametrize("text", ["' OR 1=1 --", "a';DROP TABLE documents;--", "%", "_", "shop\x00", 'x"y', "a\\b"])
@pytest.mark.parametrize("name", ["kind", "namespace"])
async def test_case_110_sql_metacharacters_in_filters_are_422(shared_api, name, text):
    """No namespace or kind has such characters."""
    response = await shared_api.client.get("/v1/policies", params={name: text})

    assert (422, ErrorCode.INVALID) == (response.status_code, response.json()["code"])


@pytest.mark.parametrize("revision", ["-1", "x", "1.0", "9" * 30, "0x1"])
async def test_revisions_in_paths_are_numbers(shared_api, revision):
    """Anything else names no revision."""
    assert 404 == (await shared_api.client.get(f"/v1/revisions/{revision}")).status_code


@pytest.mark.parametrize("revision", ["-1", "x", "9" * 30])
async def test_revisions_in_queries_are_numbers(shared_api, revision):
    """Out of range is not acceptable."""
    response = await shared_api.client.get("/v1/policies/Mesh/-/mesh", params={"revision": revision})

    assert 422 == response.status_code
