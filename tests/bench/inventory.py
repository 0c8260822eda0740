"""The pods of a large cluster: seconds until they are known, memory, and what one event costs.

Usage: python -m tests.bench.inventory [--quick]. The API server is the tests' stand-in, over TLS, in a process of its own, so
that the memory is ours alone; its pods are as large as real ones.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog

from app.kube.access import ApiServer, ApiServerAccess
from app.kube.pod_watch import PodWatch
from app.limits import KubernetesLimits
from tests.support.kube_api import OUR_TOKEN, KubeApi, pod, running_kube_api

PODS, NODES, EVENTS = 50_000, 1_000, 20_000
_FILLER = {"manager": "kube-controller-manager", "operation": "Update", "time": "2026-11-23T12:00:00Z"}


def _large_pod(number: int) -> dict[str, Any]:
    """About six kilobytes, as a pod with a container or two and its managed fields has."""
    value = pod(f"workload-{number}-5d8f7c6b9-x2x4z", f"account-{number % 400}", node=f"node-{number % NODES}")
    value["metadata"]["namespace"] = f"namespace-{number % 100}"
    value["metadata"]["uid"] = f"3b2f6a52-0000-4000-8000-{number:012d}"
    value["metadata"]["managedFields"] = [
        {
            **_FILLER,
            "fieldsV1": {f"f:{name}": {f"f:part-{part}": {} for part in range(20)} for name in ("a", "b", "c", "d")},
        }
        for _ in range(2)
    ]
    value["spec"]["volumes"] = [{"name": f"volume-{part}", "configMap": {"name": "some-config"}} for part in range(20)]
    return value


async def _serve(pods: int) -> None:
    """The stand-in: says where it is, sends events when told to, ends with its input."""
    with tempfile.TemporaryDirectory() as folder:
        async with running_kube_api(Path(folder)) as api:
            for number in range(pods):
                api.version += 1
                value = _large_pod(number)
                value["metadata"]["resourceVersion"] = str(api.version)
                api.pods[f"{value['metadata']['namespace']}/{value['metadata']['name']}"] = value
            one = json.dumps(next(iter(api.pods.values())))
            _say({"url": api.url, "ca": str(api.ca_file), "pod_bytes": len(one)})
            reader = asyncio.StreamReader()
            await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
            while line := await reader.readline():
                await _send_events(api, int(line))
                _say({"version": api.version})


async def _send_events(api: KubeApi, count: int) -> None:
    keys = list(api.pods)
    for number in range(count):
        api.version += 1
        value = api.pods[keys[number % len(keys)]]
        value["metadata"]["resourceVersion"] = str(api.version)
        api.send("MODIFIED", value)
        if number % 200 == 0:
            await asyncio.sleep(0)


def _say(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)


@asynccontextmanager
async def _server(pods: int) -> AsyncIterator[tuple[asyncio.subprocess.Process, dict[str, Any]]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.inventory", "--serve", str(pods),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield process, json.loads(await process.stdout.readline())
    finally:
        process.kill()
        await process.wait()


async def _measure(pods: int, events: int) -> dict[str, Any]:
    limits = KubernetesLimits()
    async with _server(pods) as (process, said):
        assert process.stdin is not None
        assert process.stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            token = Path(folder) / "token"
            token.write_text(OUR_TOKEN)
            empty = _rss()
            access = ApiServerAccess(server=said["url"], ca_file=Path(said["ca"]), token_file=token)
            api = await ApiServer.open(access, limits)
            with_client = _rss()
            watch = PodWatch(api, limits, cluster="bench")
            lag = _Lag()
            started, cpu = time.perf_counter(), time.process_time()
            tasks = [asyncio.create_task(watch.run()), asyncio.create_task(lag.run())]
            await _until(lambda: watch.describe().workloads == pods)
            listed, list_cpu, list_lag = time.perf_counter() - started, time.process_time() - cpu, lag.take()
            listed_rss = _rss()
            process.stdin.write(f"{events}\n".encode())
            started, cpu = time.perf_counter(), time.process_time()
            version = str(json.loads(await process.stdout.readline())["version"])
            await _until(lambda: watch.describe().version == version)
            seconds, event_cpu = time.perf_counter() - started, time.process_time() - cpu
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await api.close()
    return {
        "pods": pods,
        "pod_bytes": said["pod_bytes"],
        "seconds_until_indexed": round(listed, 2),
        "cpu_seconds_until_indexed": round(list_cpu, 2),
        "longest_turn_ms": round(list_lag * 1e3, 1),
        "rss_mib": {"empty": empty, "with_client": with_client, "with_pods": listed_rss, "peak": _peak()},
        "events": events,
        "events_per_second": round(events / seconds),
        "cpu_us_per_event": round(event_cpu / events * 1e6, 1),
        "longest_turn_ms_events": round(lag.take() * 1e3, 1),
    }


class _Lag:
    """How long the event loop kept another task waiting, at most."""

    def __init__(self) -> None:
        self._worst = 0.0

    async def run(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            self._worst = max(self._worst, time.perf_counter() - before - 0.001)

    def take(self) -> float:
        worst, self._worst = self._worst, 0.0
        return worst


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(200):
        while not condition():
            await asyncio.sleep(0.01)


def _rss() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--serve", type=int, default=0)
    given = parser.parse_args()
    if given.serve:
        asyncio.run(_serve(given.serve))
        return
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    print(json.dumps(asyncio.run(_measure(*((500, 100) if given.quick else (PODS, EVENTS))))))


if __name__ == "__main__":
    main()
