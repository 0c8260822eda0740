"""The benchmarks work; what they measure in so short a run means nothing."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import pytest

from tests.bench.__main__ import SECTIONS

pytestmark = pytest.mark.e2e

SECONDS = 360.0


async def _bench(*arguments: str) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.bench", "--quick", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(SECONDS):
        output, errors = await process.communicate()
    assert 0 == process.returncode, errors.decode()
    report: dict[str, Any] = json.loads(output)
    return report


@pytest.mark.parametrize("section", sorted(set(SECTIONS) - {"envoy"}))
async def test_every_section_runs_and_prints_one_json_object(section: str) -> None:
    """`make bench QUICK=1` says what was measured on which machine."""
    report = await _bench(section)

    assert {"quick", "machine", "load_average", section} == set(report)
    assert {"what", "took_seconds"} < set(report[section])


async def test_the_waypoint_is_measured_beside_no_filter_and_native_rbac() -> None:
    """Each variant has its latency, its CPU time and its ratio to no filter; every request was allowed."""
    measured = (await _bench("envoy"))["envoy"]
    variants = ("no_filter", "native_rbac", "ext_authz_10_policies")

    assert set(variants) <= set(measured)
    for variant in variants:
        assert measured[variant]["latency_microseconds"]["p50"] > 0
        assert measured[variant]["waypoint_cpu_microseconds"] > 0
    assert 0 == measured["native_rbac"]["worker_cpu_microseconds"]
    assert measured["ext_authz_10_policies"]["worker_cpu_microseconds"] > 0
    assert {"latency_p50", "cpu"} == set(measured["native_rbac"]["times"])
