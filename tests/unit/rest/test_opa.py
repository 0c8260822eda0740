"""Bundles over REST: with a token that can do nothing else, with entity tags and long polls."""

from __future__ import annotations

import asyncio
import io
import json
import tarfile

import httpx2
import pytest

from app.authority.actor import Actor, Role
from tests.support.administration import ALICE, policy
from tests.support.rego import module_document

MODULES = "/v1/opa/bundles/modules"


@pytest.fixture
async def bundle_client(api):
    """A client with a bundle token, and a set with one module that is published."""
    await api.services.administration.put_policy(ALICE, module_document("authz", "package shop.authz\n", {"a": 1}))
    await api.publisher.refresh()
    made = await api.services.administration.tokens.create(Actor.system(), name="opa", role=Role.BUNDLE)
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(api.app),
        base_url="http://api",
        headers={"authorization": f"Bearer {made.secret}"},
    ) as client:
        yield client


def _data(answer: httpx2.Response) -> dict:
    with tarfile.open(fileobj=io.BytesIO(answer.content), mode="r:gz") as tar:
        return json.load(tar.extractfile("/data.json"))


async def test_a_bundle_with_its_tag_and_the_type_that_opa_knows(bundle_client):
    """What OPA needs to pull it, and to know that long polls are understood."""
    answer = await bundle_client.get(MODULES)

    assert (200, "application/vnd.openpolicyagent.bundles") == (answer.status_code, answer.headers["content-type"])
    assert {"shop": {"authz": {"a": 1}}} == _data(answer)
    assert answer.headers["etag"].startswith('"')


async def test_a_bundle_that_is_already_there_is_not_sent_again(api, bundle_client):
    """Also not after a change of something else."""
    tag = (await bundle_client.get(MODULES)).headers["etag"]
    await api.services.administration.put_policy(ALICE, policy())
    await api.publisher.refresh()
    same = await bundle_client.get(MODULES, headers={"if-none-match": tag})
    await api.services.administration.put_policy(ALICE, module_document("lib", "package shop.lib\n"))
    await api.publisher.refresh()
    other = await bundle_client.get(MODULES, headers={"if-none-match": tag})

    assert (304, tag, b"") == (same.status_code, same.headers["etag"], same.content)
    assert 200 == other.status_code


async def test_a_long_poll_is_answered_by_the_change(api, bundle_client):
    """And by nothing, when the wait is over."""
    tag = (await bundle_client.get(MODULES)).headers["etag"]
    headers = {"if-none-match": tag, "prefer": "modes=snapshot;wait=10"}
    waiting = asyncio.create_task(bundle_client.get(MODULES, headers=headers))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await api.services.administration.put_policy(ALICE, module_document("lib", "package shop.lib\n"))
    await api.publisher.refresh()

    assert 200 == (await waiting).status_code
    tag = (await bundle_client.get(MODULES)).headers["etag"]
    still = await bundle_client.get(MODULES, headers={"if-none-match": tag, "prefer": "wait=0"})
    assert 304 == still.status_code


async def test_a_bundle_token_reads_bundles_and_nothing_else(api, bundle_client):
    """Whoever reads the configuration of an OPA must not administer the mesh."""
    for method, path in (
        ("GET", "/v1/policies"),
        ("POST", MODULES),
        ("POST", "/v1/tokens"),
        ("GET", "/v1/opa/bundles"),
        ("GET", "/v1/opa"),
    ):
        assert 403 == (await bundle_client.request(method, path, json={})).status_code, path
    assert 401 == (await api.anonymous().get(MODULES)).status_code
    assert 200 == (await api.client.get(MODULES)).status_code


async def test_the_set_as_data_and_no_other_bundle(api, bundle_client):
    """The policies stand under a root of ours; a name that is none leads nowhere."""
    await api.services.administration.put_policy(ALICE, policy())
    await api.publisher.refresh()

    data = _data(await bundle_client.get("/v1/opa/bundles/policies"))
    assert policy() == data["gatehouse"]["policies"]["AuthorizationPolicy"]["shop"]["cart"]
    assert 404 == (await bundle_client.get("/v1/opa/bundles/other")).status_code


async def test_before_the_first_publication_there_is_no_bundle(api):
    """An empty bundle would take every rule from an OPA that restarts."""
    assert 503 == (await api.client.get(MODULES)).status_code
