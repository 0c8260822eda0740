"""Bar R8: a rotation that is killed at any of its commits is consistent, and is finished by whoever starts next."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_r8_a_rotation_that_is_killed_at_each_step_resumes(tmp_path: Path) -> None:
    """SIGKILL before and after every commit of it, from the first start to the removal of the old root."""
    program = [sys.executable, "-m", "tests.support.killed_rotation", str(tmp_path)]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert 0 == done.returncode, done.stderr
    lives = [json.loads(line) for line in done.stdout.splitlines()]
    assert [] == [life for life in lives if life["status"]], done.stderr
    assert [True] == [life["survived"] for life in lives if life["survived"]]
    assert len(lives) > 15
