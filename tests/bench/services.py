"""The services of a large cluster: seconds until they are stored and published, and until one change is.

Usage: python -m tests.bench.services [--quick]. The API server is the tests' stand-in, over TLS, in the same process; the
database is SQLite, and between two changes nothing is gathered, so that what is measured is work.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from app.authority.placement.keep_services import KeepServices
from app.authority.policies.publish_snapshot import SnapshotPublisher
from app.kube.service_watch import ServiceWatch
from app.limits import KubernetesLimits, StorageLimits
from app.storage.database import Database
from tests.support.administration import StandingClock
from tests.support.kube_api import SERVICES, client_of, running_kube_api, service
from tests.support.snapshots import FixedTrust, signing_key

COUNT, CHANGES = 20_000, 20


async def _measure(count: int, changes: int) -> dict[str, Any]:
    limits = replace(KubernetesLimits(), services_gather_seconds=0.0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        url = f"sqlite:///{folder / 'bench.db'}"
        with Database.open(url, StorageLimits()) as database:
            async with running_kube_api(folder) as api, client_of(api, folder, limits) as client:
                for number in range(count):
                    address = f"10.{96 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"
                    api.put(service(f"service-{number}", address, namespace=f"ns-{number % 100}"), SERVICES)
                watch = ServiceWatch(client, limits, cluster="bench")
                kept = KeepServices(database, watch, clock=StandingClock(), limits=limits)
                publisher = SnapshotPublisher(database, signer=signing_key(), trust=FixedTrust(), poll_seconds=0.05)
                started, cpu = time.perf_counter(), time.process_time()
                tasks = [asyncio.create_task(watch.run()), asyncio.create_task(kept.run())]
                await _until(lambda: _stored(database, 1))
                stored, stored_cpu = time.perf_counter() - started, time.process_time() - cpu
                started = time.perf_counter()
                await publisher.refresh()
                published = time.perf_counter() - started
                each = [await _one_change(api, database, number) for number in range(changes)]
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
    each.sort()
    return {
        "services": count,
        "seconds_until_stored": round(stored, 2),
        "cpu_seconds_until_stored": round(stored_cpu, 2),
        "seconds_to_publish": round(published, 2),
        "changes": changes,
        "ms_until_a_change_is_stored": round(each[len(each) // 2] * 1e3, 1),
        "ms_until_a_change_is_stored_worst": round(each[-1] * 1e3, 1),
    }


async def _one_change(api: Any, database: Database, number: int) -> float:
    before = await _generation(database)
    started = time.perf_counter()
    api.put(service(f"service-{number}", f"10.200.0.{number + 1}", namespace=f"ns-{number % 100}"), SERVICES)
    await _until(lambda: _stored(database, before + 1))
    return time.perf_counter() - started


async def _generation(database: Database) -> int:
    return await database.read(lambda transaction: transaction.inventory.services_generation())


async def _stored(database: Database, generation: int) -> bool:
    return await _generation(database) >= generation


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(120):
        while not await condition():
            await asyncio.sleep(0.001)


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    print(json.dumps(asyncio.run(_measure(*((200, 2) if given.quick else (COUNT, CHANGES))))))


if __name__ == "__main__":
    main()
