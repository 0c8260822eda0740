"""The API over a store of its own for each test."""

from __future__ import annotations

import pytest

from tests.support.api import running_api


@pytest.fixture(name="api")
async def _api(tmp_path):
    async with running_api(tmp_path) as api:
        yield api
