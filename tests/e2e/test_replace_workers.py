"""Replacing every worker again and again under load, through the real Envoy, costs no error: docs/adr/0003-drain.md."""

import asyncio
import os
import re
import signal
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.demo.envoy_parts import Credentials
from app.demo.node_agent import NodeAgent
from tests.support.gatehouse import Gatehouse
from tests.support.plain_gateway import LISTENER, gateway
from tests.support.steady_load import steady_load

pytestmark = pytest.mark.e2e

IDENTITY = "spiffe://cluster.local/ns/shop/sa/gateway"
POLICY = [
    *(
        {
            "apiVersion": "gatehouse.dev/v1",
            "kind": "EnforcementPoint",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {"kind": "gateway", "requireIdentity": False, "caller": caller},
        }
        for name, caller in (
            ("beside", {"listener": "local"}),
            ("over-http", {"listener": "http"}),
            ("elsewhere", {"spiffeId": IDENTITY}),
        )
    ),
    {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "orders", "namespace": "shop"},
        "spec": {"action": "ALLOW", "rules": [{"to": [{"operation": {"methods": ["GET"], "paths": ["/orders"]}}]}]},
    },
]
TIMES = 10
# What Envoy says about why a request was refused.
_TELLING = (
    "ext_authz|cluster.check.upstream_(rq_(timeout|rx_reset|pending_failure)|cx_(connect_fail|destroy.*active_rq))"
)
LIMITS = {
    "check": {"max_queue_seconds": 5.0},  # a busy machine is not what is tested here
    "process": {"drain_min_seconds": 0.0, "drain_max_seconds": 6.0, "heartbeat_seconds": 0.1},
    "check_grpc": {"max_connection_age_seconds": 1.0},
}


async def _until_served(gatehouse: Gatehouse) -> None:
    """Until both workers decide by the first revision."""

    def served(children: dict[str, dict[str, Any]]) -> bool:
        workers = [child for name, child in children.items() if name.startswith("worker")]
        return all((worker["numbers"].get("revision") or 0) >= 1 for worker in workers)

    await gatehouse.until(served)


async def _credentials(gatehouse: Gatehouse, client: httpx2.AsyncClient, directory: Path) -> Credentials:
    """A certificate of Gatehouse for the gateway that asks over mutual TLS."""
    account = {"namespace": "shop", "serviceAccount": "gateway"}
    minted = await client.post("/v1/tokens/workload", json=account)
    assert 201 == minted.status_code, minted.text
    roots = (await client.get("/v1/trust-bundle.pem")).content
    async with NodeAgent(gatehouse.addresses["ca"], roots, minted.json()["token"]) as agent:
        certificate = await agent.fetch_own(IDENTITY, timeout_seconds=30.0)
    directory.mkdir()
    files = Credentials(
        certificate=directory / "chain.pem", private_key=directory / "key.pem", trust_bundle=directory / "roots.pem"
    )
    files.certificate.write_bytes(certificate.chain_pem)
    files.private_key.write_bytes(certificate.key_pem)
    files.trust_bundle.write_bytes(certificate.roots_pem)
    return files


@pytest.mark.parametrize("transport", ["grpcio", "envoy"])
async def test_replacing_every_worker_ten_times_costs_no_error(tmp_path: Path, transport: str) -> None:
    """At a steady load on both ports every request is allowed, and new connections were made all the time."""
    async with Gatehouse(tmp_path, limits=LIMITS, check={"transport": transport}) as gatehouse:
        async with await gatehouse.admin() as client:
            applied = await client.post("/v1/apply", json=POLICY)
            assert 200 == applied.status_code, applied.text
            credentials = await _credentials(gatehouse, client, tmp_path / "credentials")
        await _until_served(gatehouse)
        mutual_tls = gateway(gatehouse.addresses["check_mtls"], tmp_path / "elsewhere", credentials=credentials)
        async with (
            gateway(gatehouse.addresses["check"], tmp_path / "beside") as beside,
            mutual_tls as elsewhere,
            steady_load(beside.ports[LISTENER], per_second=300) as plain,
            steady_load(elsewhere.ports[LISTENER], per_second=300) as secure,
        ):
            pids = set()
            for _ in range(TIMES):
                assert {"replaced": 2, "workers": 2} == await gatehouse.control("replace-workers")
                pids |= {child["pid"] for child in (await gatehouse.processes()).values()}
            seen = [
                {name: value for name, value in (await envoy.counters(_TELLING)).items() if value}
                for envoy in (beside, elsewhere)
            ]
            seen.append(re.findall(r"gatehouse_checks_total.*", (await gatehouse.get("/metrics")).text))
            connections = [
                (await envoy.counters("cluster.check.upstream_cx_total"))["cluster.check.upstream_cx_total"]
                for envoy in (beside, elsewhere)
            ]
        children = await gatehouse.processes()
    assert ({200: plain.total}, {200: secure.total}) == (dict(plain.statuses), dict(secure.statuses)), seen
    assert min(plain.total, secure.total) > 1_000
    assert {"worker-1": TIMES, "worker-2": TIMES} == {
        name: child["replacements"] for name, child in children.items() if name != "authority"
    }
    assert 2 * TIMES + 1 == len(pids)
    # Otherwise nothing was moved from worker to worker, and the test showed nothing.
    assert min(connections) > TIMES


async def test_replacing_workers_costs_no_error_over_http(tmp_path: Path) -> None:
    """Port 9192: connections leave after an answer, idle ones when they are quiet."""
    async with Gatehouse(tmp_path, limits=LIMITS) as gatehouse:
        async with await gatehouse.admin() as client:
            assert 200 == (await client.post("/v1/apply", json=POLICY)).status_code
        await _until_served(gatehouse)
        async with (
            gateway(gatehouse.addresses["check_http"], tmp_path / "envoy", over_http=True) as envoy,
            steady_load(envoy.ports[LISTENER], per_second=200) as load,
        ):
            for _ in range(3):
                assert {"replaced": 2, "workers": 2} == await gatehouse.control("replace-workers")
            seen = await envoy.counters(_TELLING)
            connections = (await envoy.counters("cluster.check.upstream_cx_total"))["cluster.check.upstream_cx_total"]
    assert {200: load.total} == dict(load.statuses), seen
    assert load.total > 300
    assert connections > 3


@pytest.mark.parametrize("transport", ["grpcio", "envoy"])
async def test_a_worker_that_dies_costs_the_requests_that_it_had_and_no_more(tmp_path: Path, transport: str) -> None:
    """Envoy fails them closed; the next ones go to the worker that is left."""
    async with Gatehouse(tmp_path, limits=LIMITS, check={"transport": transport}) as gatehouse:
        async with await gatehouse.admin() as client:
            assert 200 == (await client.post("/v1/apply", json=POLICY)).status_code
        await _until_served(gatehouse)
        async with (
            gateway(gatehouse.addresses["check"], tmp_path / "envoy") as envoy,
            steady_load(envoy.ports[LISTENER], per_second=200) as load,
        ):
            old = (await gatehouse.processes())["worker-1"]["pid"]
            os.kill(old, signal.SIGKILL)
            await gatehouse.until(lambda children: children["worker-1"]["pid"] != old and children["worker-1"]["ready"])
            refused = load.total - load.statuses[200]
            before = load.total
            while load.total < before + 200:
                await asyncio.sleep(0.05)
            assert refused == load.total - load.statuses[200]
    assert refused <= 8  # one a connection
