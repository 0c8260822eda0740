"""Loaded before any test module: gRPC must find our TLS policy when a test imports it."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

import app

assert app.__version__


def pytest_collection_finish() -> None:
    """Modules and test items stay until the end: nobody need look through them again for garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _garbage_of_its_own() -> Iterator[None]:
    """Whatever a test leaves open is its own failure, not that of a later test that happens to collect it."""
    yield
    gc.collect()
