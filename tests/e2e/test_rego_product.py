"""The example of Rego in a whole Gatehouse: stored over REST, checked, decided by a worker's child, served as a bundle."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import tarfile
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from app.rpc.pb.ext_authz_pb2 import CheckRequest, CheckResponse
from tests.support.check_client import ask
from tests.support.decisions import GATEWAY_REF, LOCAL_WAYPOINT, ORDERS_IP, WAYPOINT
from tests.support.gatehouse import Gatehouse
from tests.support.processes import until_gone
from tests.support.rego import module_document, needs_regopy

pytestmark = [pytest.mark.e2e, needs_regopy]

EXAMPLE = Path(__file__).parents[2] / "policies" / "rego" / "refunds.yaml"
BACKOFFICE = "spiffe://cluster.local/ns/shop/sa/backoffice"


async def _store(api: httpx2.AsyncClient, documents: list[Any]) -> httpx2.Response:
    return await api.post("/v1/apply", content=json.dumps(documents), headers={"content-type": "application/json"})


async def _check(address: str, path: str, amount: float) -> CheckResponse:
    """A POST by the back office through the waypoint."""
    body = json.dumps({"amount": amount})
    request = CheckRequest()
    http = request.attributes.request.http
    http.method, http.path, http.host, http.body = "POST", path, "orders.shop", body
    http.headers.update({"content-type": "application/json", "content-length": str(len(body))})
    http.headers["x-forwarded-client-cert"] = f"By={WAYPOINT};URI={BACKOFFICE}"
    request.attributes.destination.address.socket_address.address = ORDERS_IP
    request.attributes.destination.address.socket_address.port_value = 8080
    return await ask(address, request.SerializeToString())


def _headers(answer: CheckResponse) -> dict[str, str]:
    """What is set for the service; nothing when the request was refused."""
    return {each.header.key: each.header.value or each.header.raw_value.decode() for each in answer.ok_response.headers}


def _children(pid: int) -> list[int]:
    """Processes that run Rego below a process."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == pid and b"app.rego.child" in command:
            found.append(int(folder.name))
    return found


async def test_the_example_decides_in_a_worker_and_outlives_its_child(tmp_path: Path) -> None:
    """From `POST /v1/apply` to the answer of a Check; then the child is killed, and the next answers are there again."""
    documents = list(yaml.safe_load_all(EXAMPLE.read_text()))
    text = documents[0]["spec"]["rego"].replace("input.gatehouse.claims.roles", '["clerk"]')  # no token in this test
    documents[0]["spec"]["rego"] = text
    for policy in documents[2:]:
        policy["spec"]["targetRefs"] = [GATEWAY_REF]  # there is no inventory of services here
    limits = {"rego": {"evaluate_seconds": 2.0}, "check": {"provider_budget_seconds": 4.0}}
    limits |= {"check_grpc": {"rpc_budget_seconds": 5.0}}
    async with Gatehouse(tmp_path, workers=1, limits=limits) as gatehouse, await gatehouse.admin() as api:
        bad = await _store(api, [module_document("bad", "package bad\n\nx := \n")])
        assert (422, "/0/spec/rego") == (bad.status_code, bad.json()["errors"][0]["pointer"])
        assert bad.json()["errors"][0]["message"].startswith("line 3: ")
        stored = await _store(api, [LOCAL_WAYPOINT, *documents])
        assert 200 == stored.status_code, stored.text
        address = gatehouse.addresses["check"]

        async def until_allowed_with_headers() -> None:
            async with asyncio.timeout(30):
                while _headers(await _check(address, "/orders/7/refund", 50)).get("x-refund-roles") != "clerk":
                    await asyncio.sleep(0.05)

        await until_allowed_with_headers()
        refused = await _check(address, "/orders/7/refund", 51)
        assert '{"error":"the amount is above your limit"}' == refused.denied_response.body

        (worker,) = [each["pid"] for name, each in (await gatehouse.processes()).items() if name.startswith("worker")]
        (child,) = _children(worker)
        os.kill(child, signal.SIGSEGV)
        await until_allowed_with_headers()
        assert [child] != _children(worker)

        token = (await api.post("/v1/tokens", json={"name": "opa", "role": "bundle"})).json()["secret"]
        async with httpx2.AsyncClient(base_url=api.base_url, trust_env=False) as opa:
            bundle = await opa.get("/v1/opa/bundles/modules", headers={"authorization": f"Bearer {token}"})
        with tarfile.open(fileobj=io.BytesIO(bundle.content), mode="r:gz") as tar:
            assert ["/.manifest", "/data.json", "/shop/refunds.rego"] == tar.getnames()
        last = _children(worker)
    assert last
    await until_gone([worker, *last])
