from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.kube_api import KubeApi, running_kube_api


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[KubeApi]:
    """A stand-in API server."""
    async with running_kube_api(tmp_path / "cluster") as running:
        yield running
