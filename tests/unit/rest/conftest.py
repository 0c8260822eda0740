"""The API over a store of its own for each test."""

from __future__ import annotations

import logging

import pytest
import structlog

from tests.support.api import running_api


@pytest.fixture(name="api")
async def _api(tmp_path):
    # Rendering the traceback of a failure that a test makes on purpose would take seconds.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    async with running_api(tmp_path) as api:
        yield api
    structlog.reset_defaults()
