"""R4: the disk with the state directory is full while nodes ask: nothing goes unrecorded, and it passes by itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_crashes import NODES, authority, pid_of_authority
from tests.support.check_client import ask
from tests.support.gatehouse import Gatehouse
from tests.support.issuing_load import issuing_load, read_record
from tests.support.nodes import Nodes

pytestmark = pytest.mark.e2e

DISK = "24m"
BACK_SECONDS = 10.0
SLACK_SECONDS = 10.0  # for a machine that does other things, too


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=0700", "tmpfs", str(folder)],
            capture_output=True,
            check=False,
        )
    except OSError:
        mounted = None
    if mounted is None or mounted.returncode:
        pytest.skip("a small file system cannot be mounted: needs root and the right to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Take every byte that is left."""
    ballast = disk / "ballast"
    with ballast.open("ab", buffering=0) as file:
        for size in (65_536, 4_096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
    assert 0 == os.statvfs(disk).f_bavail
    return ballast


async def readiness(gatehouse: Gatehouse) -> str:
    return (await gatehouse.get("/readyz?verbose")).text


async def test_a_full_disk_stops_issuing_and_nothing_else_and_it_comes_back_alone(tmp_path: Path, disk: Path) -> None:
    """Refused fast and with the reason; decisions and reads go on; no restart is needed when there is space again."""
    nodes = Nodes(tmp_path, count=NODES, identities=8)
    url = f"sqlite:///{disk / 'state' / 'gatehouse.db'}"
    settings = {"role": "all", "workers": 1, "state_dir": str(disk / "state")}
    async with authority(tmp_path, nodes, url, **settings) as gatehouse:
        roots = await nodes.introduce(gatehouse)
        admin = await gatehouse.admin()
        before, pid = await ask(gatehouse.addresses["check"]), await pid_of_authority(gatehouse)
        async with (
            admin,
            issuing_load(
                lambda number: nodes.agent(gatehouse.addresses["ca"], roots, number % NODES),
                lambda number: nodes.identities(number % NODES),
                clients=8,
            ) as load,
        ):
            await load.until(50)
            ballast = fill(disk)
            async with asyncio.timeout(60):
                while not load.received.refusal_seconds:
                    if os.statvfs(disk).f_bavail != 0:
                        fill(disk)
                    await asyncio.sleep(0.05)
                while "is full" not in await readiness(gatehouse):
                    await asyncio.sleep(0.05)
            for _ in range(20):
                after = await ask(gatehouse.addresses["check"])
                assert str(before.dynamic_metadata["reason"]) == str(after.dynamic_metadata["reason"])
            assert 200 == (await admin.get("/v1/status")).status_code
            assert NODES * 9 == len((await admin.get("/v1/inventory")).json()["workloads"])
            ballast.unlink()
            freed = time.monotonic()
            await load.until(20)
            async with asyncio.timeout(60):
                while (await gatehouse.get("/readyz")).status_code != 200:
                    await asyncio.sleep(0.05)
            back_seconds = time.monotonic() - freed
        assert pid == await pid_of_authority(gatehouse)
        assert any("is full" in message for message in load.received.messages)
    refused = sorted(load.received.refusal_seconds)
    assert {"OK", "UNAVAILABLE", "RESOURCE_EXHAUSTED"} >= set(load.received.codes)
    assert refused[len(refused) * 9 // 10] < 1.0
    assert back_seconds < BACK_SECONDS + SLACK_SECONDS
    read_record(url).account_for(load.received)
    with contextlib.closing(sqlite3.connect(disk / "state" / "gatehouse.db")) as connection:
        assert [("ok",)] == connection.execute("PRAGMA integrity_check").fetchall()
