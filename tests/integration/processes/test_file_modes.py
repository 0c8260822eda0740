"""What a running Gatehouse writes is for its own user, also in a state directory that others may enter."""

from __future__ import annotations

import stat
from pathlib import Path

from tests.support.gatehouse import Gatehouse


async def test_nothing_that_is_written_is_readable_by_others(tmp_path: Path) -> None:
    """Keys, tokens, snapshots and metrics alike: nobody else has a permission on any file or folder."""
    tmp_path.chmod(0o755)
    async with Gatehouse(tmp_path) as gatehouse:
        state = gatehouse.state_dir
        open_to_others = [
            str(path.relative_to(state)) for path in state.rglob("*") if stat.S_IMODE(path.lstat().st_mode) & 0o077
        ]
        written = len(list(state.rglob("*")))

    assert written > 10
    assert [] == open_to_others
