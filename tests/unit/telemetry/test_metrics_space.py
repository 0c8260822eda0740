"""Metric files do not rest on disk space that may be gone later."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
PROGRAM = "from app.telemetry import exposition, metrics; exposition.reserve_metrics_space()"


def test_every_byte_of_the_metric_files_is_taken(tmp_path: Path) -> None:
    """A count never needs a page that a full disk cannot give: the file has no holes."""
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", PROGRAM], env=environment, check=True)
    files = {file.name.rpartition("_")[0]: file.stat() for file in tmp_path.iterdir()}
    assert {"counter", "histogram", "gauge_max", "gauge_livemax"} <= set(files)
    assert [] == [name for name, found in files.items() if found.st_blocks * 512 < found.st_size]
