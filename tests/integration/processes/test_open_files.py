"""A thousand node proxies need more open files than a shell gives."""

from __future__ import annotations

import re
import resource
from pathlib import Path

from tests.support.gatehouse import Gatehouse


async def test_every_process_may_open_as_many_files_as_its_bounds_need(tmp_path: Path) -> None:
    """Started under a soft limit of 256, all of it may hold the connections that it is configured for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        gatehouse = Gatehouse(tmp_path, workers=1)
        await gatehouse.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        await gatehouse.wait_until_ready()
        for name, process in (await gatehouse.processes()).items():
            limits = Path(f"/proc/{process['pid']}/limits").read_text()
            found = re.search(r"^Max open files +(\d+)", limits, re.MULTILINE)
            assert found is not None
            assert (name, min(hard, 65_536)) == (name, int(found[1]))
    finally:
        await gatehouse.kill()
