"""The API over a store of its own for each test, or one for a module whose tests change nothing."""

from __future__ import annotations

import logging

import pytest
import pytest_asyncio
import structlog

from tests.support.api import running_api


@pytest.fixture(autouse=True)
def _quiet_log():
    # Rendering the traceback of a failure that a test makes on purpose would take seconds.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


@pytest.fixture(name="api")
async def _api(tmp_path):
    async with running_api(tmp_path) as api:
        yield api


@pytest_asyncio.fixture(name="shared_api", scope="module", loop_scope="module")
async def _shared_api(tmp_path_factory):
    async with running_api(tmp_path_factory.mktemp("api")) as api:
        yield api
