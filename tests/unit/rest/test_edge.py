"""The edge of the API: who gets in, which paths exist, and what every answer carries."""

from __future__ import annotations

import uuid

import pytest

from app.authority.actor import Actor, Role
from app.errors import ErrorCode
from app.telemetry.metrics import API_REQUESTS

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOBODY = [
    None,
    "Bearer",
    "Bearer ",
    "bearer x y",
    "Basic YWRtaW46YWRtaW4=",
    "Bearer gh_admin_aaaaaaaaaaaaa_bbbb",
    "Bearer " + "a" * 5_000,
    "Bearer ünicode",
]


@pytest.mark.parametrize("authorization", NOBODY)
@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/status"), ("PUT", "/v1/policies/Mesh/-/mesh"), ("GET", "/v1/no-such-path")]
)
async def test_without_a_valid_token_everything_is_401(shared_api, authorization, method, path):
    """The same problem for every reason, before the path or the body matters."""
    headers = {} if authorization is None else {"authorization": authorization.encode("latin-1")}
    response = await shared_api.anonymous().request(method, path, headers=headers)

    assert (401, ErrorCode.UNAUTHENTICATED) == (response.status_code, response.json()["code"])
    assert response.headers["www-authenticate"].startswith("Bearer")


async def test_two_authorization_headers_are_401(shared_api):
    """Nobody can be two."""
    value = f"Bearer {shared_api.admin_token}"
    response = await shared_api.anonymous().get(
        "/v1/status", headers=[("authorization", value), ("authorization", value)]
    )

    assert 401 == response.status_code


async def test_a_workers_token_is_403(shared_api):
    """A worker's token opens the link, and nothing here."""
    made = await shared_api.services.administration.tokens.create(Actor.system(), name="edge", role=Role.WORKER)
    response = await shared_api.anonymous().get("/v1/status", headers={"authorization": f"Bearer {made.secret}"})

    assert (403, ErrorCode.PERMISSION_DENIED) == (response.status_code, response.json()["code"])


async def test_a_revoked_token_stops_working_at_once(shared_api):
    """The answer to the revocation is already too late for it."""
    made = (await shared_api.client.post("/v1/tokens", json={"name": "bob"})).json()
    bob = {"authorization": f"Bearer {made['secret']}"}
    before = await shared_api.anonymous().get("/v1/status", headers=bob)
    revoked = await shared_api.client.delete(f"/v1/tokens/{made['token']['id']}")
    after = await shared_api.anonymous().get("/v1/status", headers=bob)

    assert [200, 200, 401] == [before.status_code, revoked.status_code, after.status_code]


@pytest.mark.parametrize("path", ["/v1/trust-bundle", "/v1/trust-bundle.pem", "/livez", "/openapi.json"])
async def test_a_few_paths_need_no_token(shared_api, path):
    """Whom to trust is public, and so is that we are alive."""
    assert 200 == (await shared_api.anonymous().get(path)).status_code


@pytest.mark.parametrize(
    "path",
    [
        "/v1/policies/AuthorizationPolicy/..%2f..%2fetc/passwd",
        "/v1/policies/AuthorizationPolicy/shop/..%2f",
        "/v1/policies/AuthorizationPolicy/shop/%2e%2e",
        "/v1/policies/AuthorizationPolicy/../status",
        "/v1/policies/AuthorizationPolicy/./shop/x",
        "/v1/policies/AuthorizationPolicy//x",
        "/v1/policies/AuthorizationPolicy/shop/a\\..\\b",
        "/v1/policies/AuthorizationPolicy/shop/a%00",
        "/v1/policies/AuthorizationPolicy/shop/a%5cb",
        "/v1/policies/AuthorizationPolicy/shop/a/",
        "/v1/revisions/..%2f",
        "/v1/revisions/1%20",
        "/v1/tokens/..%2f..",
        "/v1/ca/refusals/%2e%2e%2fx",
        "//v1/status",
        "/v1/%73tatus",
    ],
)
async def test_case_109_path_traversal_in_identifiers_is_404(shared_api, path):
    """Escapes, dot segments and empty segments name nothing."""
    sent = shared_api.client.build_request("GET", "http://api/")
    sent.url = sent.url.copy_with(raw_path=path.encode())
    response = await shared_api.client.send(sent)

    assert (404, ErrorCode.NOT_FOUND) == (response.status_code, response.json()["code"])


async def test_every_answer_has_an_id_and_is_not_kept(shared_api):
    """The request id is in a header, and in problems as the instance."""
    fine = await shared_api.client.get("/v1/status")
    wrong = await shared_api.client.get("/v1/nothing")

    assert uuid.UUID(fine.headers["x-request-id"])
    assert f"urn:uuid:{wrong.headers['x-request-id']}" == wrong.json()["instance"]
    for response in (fine, wrong):
        assert "no-store" == response.headers["cache-control"]
        assert "nosniff" == response.headers["x-content-type-options"]


async def test_what_nobody_foresaw_leaves_as_a_bland_problem(shared_api, monkeypatch):
    """No text of an exception reaches the client."""

    async def broken(*_args, **_kwargs):
        raise ValueError("secret detail")

    monkeypatch.setattr(type(shared_api.services.administration), "status", broken)
    response = await shared_api.client.get("/v1/status")

    assert (500, ErrorCode.INTERNAL) == (response.status_code, response.json()["code"])
    assert "secret" not in response.text
    assert "application/problem+json" == response.headers["content-type"]


async def test_a_failure_while_authenticating_is_a_problem_too(shared_api, monkeypatch):
    """The edge itself is caught as well."""

    async def broken(*_args):
        raise ValueError("secret detail")

    monkeypatch.setattr(type(shared_api.services.administration.tokens), "authenticate", broken)
    response = await shared_api.client.get("/v1/status")

    assert (500, ErrorCode.INTERNAL) == (response.status_code, response.json()["code"])
    assert "secret" not in response.text


@pytest.mark.parametrize(("method", "status"), [("PATCH", 405), ("TRACE", 405), ("HEAD", 405)])
async def test_other_methods_are_405(shared_api, method, status):
    """With the methods that there are."""
    response = await shared_api.client.request(method, "/v1/status")

    assert status == response.status_code
    assert "GET" in response.headers["allow"]


async def test_unknown_paths_are_problems(shared_api):
    """FastAPI's own error shape never appears."""
    response = await shared_api.client.get("/v1/nothing/here")

    assert (404, "application/problem+json") == (response.status_code, response.headers["content-type"])
    assert "detail" in response.json()
    assert ErrorCode.NOT_FOUND == response.json()["code"]


async def test_requests_are_counted_by_route(shared_api):
    """By the template, so that a path of a client's choosing makes no new series."""

    def count(route: str, status: str) -> float:
        return API_REQUESTS.labels("GET", route, status)._value.get()

    before = count("/v1/revisions/{revision}", "404"), count("", "401"), count("", "404")
    await shared_api.client.get("/v1/revisions/999")
    await shared_api.anonymous().get("/v1/whatever")
    await shared_api.client.get("/v1/whatever/else")

    assert [n + 1 for n in before] == [count("/v1/revisions/{revision}", "404"), count("", "401"), count("", "404")]
