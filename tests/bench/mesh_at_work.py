"""What the benchmarks of a whole mesh share: an authority to ask, and simulated ztunnels that cost little themselves."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.support.gatehouse import Gatehouse, merged
from tests.support.nodes import Nodes


@asynccontextmanager
async def authority(folder: Path, nodes: Nodes, **settings: Any) -> AsyncIterator[tuple[Gatehouse, bytes, int]]:
    """A whole `gatehouse serve --role authority`; its roots and the process that issues, which ends with the context."""
    quiet = {"role": "authority", "logging": {"level": "info"}}
    async with Gatehouse(folder, **merged(merged(quiet, nodes.settings), settings)) as gatehouse:
        pid = int((await gatehouse.processes())["authority"]["pid"])
        yield gatehouse, await nodes.introduce(gatehouse), pid
    async with asyncio.timeout(10.0):
        while Path(f"/proc/{pid}").exists():  # it lets go of the database last
            await asyncio.sleep(0.05)


async def metrics(gatehouse: Gatehouse) -> dict[str, float]:
    """The numbers of /metrics by name and labels."""
    lines = (await gatehouse.get("/metrics")).text.splitlines()
    samples = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in samples}


def allow_many_connections() -> None:
    """As many open files as the system gives."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
