"""Replacing every worker again and again under load, through the real Envoy, costs no error: docs/adr/0003-drain.md."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.gatehouse import Gatehouse
from tests.support.plain_gateway import LISTENER, gateway
from tests.support.steady_load import steady_load

pytestmark = pytest.mark.e2e

POLICY = [
    {
        "apiVersion": "gatehouse.dev/v1",
        "kind": "EnforcementPoint",
        "metadata": {"name": "gateway", "namespace": "shop"},
        "spec": {"kind": "gateway", "requireIdentity": False, "caller": {"listener": "local"}},
    },
    {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "orders", "namespace": "shop"},
        "spec": {"action": "ALLOW", "rules": [{"to": [{"operation": {"methods": ["GET"], "paths": ["/orders"]}}]}]},
    },
]
TIMES = 10
LIMITS = {
    "process": {"drain_min_seconds": 0.0, "drain_max_seconds": 6.0, "heartbeat_seconds": 0.1},
    "check_grpc": {"max_connection_age_seconds": 1.0},
}


async def _until_served(gatehouse: Gatehouse) -> None:
    """Until both workers decide by the first revision."""

    def served(children: dict[str, dict[str, Any]]) -> bool:
        workers = [child for name, child in children.items() if name.startswith("worker")]
        return all((worker["numbers"].get("revision") or 0) >= 1 for worker in workers)

    await gatehouse.until(served)


async def test_replacing_every_worker_ten_times_costs_no_error(tmp_path: Path) -> None:
    """At a steady load every request is allowed, whoever answers it; and new connections were made all the time."""
    async with Gatehouse(tmp_path, limits=LIMITS) as gatehouse:
        async with await gatehouse.admin() as client:
            applied = await client.post("/v1/apply", json=POLICY)
            assert 200 == applied.status_code, applied.text
        await _until_served(gatehouse)
        async with (
            gateway(gatehouse.addresses["check"], tmp_path / "envoy") as envoy,
            steady_load(envoy.ports[LISTENER], per_second=500) as load,
        ):
            pids = set()
            for _ in range(TIMES):
                assert {"replaced": 2, "workers": 2} == await gatehouse.control("replace-workers")
                pids |= {child["pid"] for child in (await gatehouse.processes()).values()}
            seen = dict(load.statuses)
            counters = await envoy.counters("cluster.check.upstream_cx_total")
        children = await gatehouse.processes()
    assert {200: load.total} == dict(load.statuses), seen
    assert load.total > 1_000
    assert {"worker-1": TIMES, "worker-2": TIMES} == {
        name: child["replacements"] for name, child in children.items() if name != "authority"
    }
    assert 2 * TIMES + 1 == len(pids)
    # Otherwise nothing was moved from worker to worker, and the test showed nothing.
    assert counters["cluster.check.upstream_cx_total"] > TIMES


async def test_a_worker_that_dies_costs_the_requests_that_it_had_and_no_more(tmp_path: Path) -> None:
    """Envoy fails them closed; the next ones go to the worker that is left."""
    async with Gatehouse(tmp_path, limits=LIMITS) as gatehouse:
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
