"""A process that holds keys leaves no core dump. Tried in a process of its own: it cannot be taken back."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import resource
from app.confinement.process_hygiene import forbid_core_dumps, is_dumpable
before = is_dumpable()
forbid_core_dumps()
print(before, is_dumpable(), resource.getrlimit(resource.RLIMIT_CORE))
"""


def test_core_dumps_are_off() -> None:
    """The limit is zero, for good, and the kernel is told that this process is private."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=30)
    assert "True False (0, 0)\n" == done.stdout
