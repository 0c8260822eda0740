"""What takes long: `make torture`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.gatehouse import Gatehouse
from tests.support.plain_gateway import LISTENER, gateway
from tests.support.steady_load import steady_load

pytestmark = [pytest.mark.e2e, pytest.mark.torture]

DEMO_SECONDS = 300.0
DEMOS = 10
CHANGES = 300
KEPT = "/orders"


def _documents(change: int) -> list[dict[str, Any]]:
    """The point, and a policy that always allows what the load asks for beside something that changes."""
    point = {
        "apiVersion": "gatehouse.dev/v1",
        "kind": "EnforcementPoint",
        "metadata": {"name": "beside", "namespace": "shop"},
        "spec": {"kind": "gateway", "requireIdentity": False, "caller": {"listener": "local"}},
    }
    paths = [KEPT, *(f"/change/{change}/{number}" for number in range(change % 50))]
    policy = {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "orders", "namespace": "shop"},
        "spec": {"action": "ALLOW", "rules": [{"to": [{"operation": {"methods": ["GET"], "paths": paths}}]}]},
    }
    return [point, policy]


async def test_the_demo_holds_ten_times_in_a_row() -> None:
    """What a new user sees first does not depend on luck."""
    for _ in range(DEMOS):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "app.cli.main", "demo"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(DEMO_SECONDS):
            output, errors = await process.communicate()

        assert 0 == process.returncode, output.decode() + errors.decode()


async def test_hundreds_of_policy_changes_under_load_cost_no_request(tmp_path: Path) -> None:
    """Snapshots are swapped whole: what every revision allows is allowed all the time, and every worker arrives."""
    async with Gatehouse(tmp_path) as gatehouse, await gatehouse.admin() as client:
        applied = await client.post("/v1/apply", json=_documents(0))
        assert 200 == applied.status_code, applied.text

        def served(children: dict[str, dict[str, Any]]) -> bool:
            workers = [child for name, child in children.items() if name.startswith("worker")]
            return all((worker["numbers"].get("revision") or 0) >= revision for worker in workers)

        revision = applied.json()["revision"]["number"]
        await gatehouse.until(served)
        async with (
            gateway(gatehouse.addresses["check"], tmp_path / "envoy") as envoy,
            steady_load(envoy.ports[LISTENER], per_second=200) as load,
        ):
            for change in range(1, CHANGES + 1):
                applied = await client.post("/v1/apply", json=_documents(change))
                assert 200 == applied.status_code, applied.text
            revision = applied.json()["revision"]["number"]
            await gatehouse.until(served)

    assert CHANGES + 1 == revision
    assert {200: load.total} == dict(load.statuses)
