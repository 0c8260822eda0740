"""Other processes of this machine, as /proc shows them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path


def is_running(pid: int) -> bool:
    """Whether it is there and more than a line in the table of processes."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def until_gone(pids: Iterable[int], *, within: float = 30.0) -> None:
    """Until none of them runs: one that was killed takes a moment, and so do those that end because of it."""
    left = list(pids)
    async with asyncio.timeout(within):
        while any(is_running(pid) for pid in left):
            await asyncio.sleep(0.05)
