"""How the authority process opens its ports."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any

import pytest

from app.bootstrap import authority


async def test_the_ports_of_the_certificate_service_open_when_something_can_be_issued(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An authority that has expired must not keep the process away in which somebody can replace it."""
    opened: list[Any] = []

    async def serve(_stack: AsyncExitStack, core: Any, _settings: Any) -> None:
        opened.append(core)

    monkeypatch.setattr(authority, "serve_certificates", serve)
    monkeypatch.setattr(authority, "_CERTIFICATE_LOOK_SECONDS", 0.001)
    core: Any = SimpleNamespace(listener_certificates=SimpleNamespace(is_one=False))
    settings: Any = None
    async with AsyncExitStack() as stack:
        waiting = asyncio.create_task(authority._serve_certificates_later(stack, core, settings))
        for _ in range(20):
            await asyncio.sleep(0)
        assert [] == opened
        core.listener_certificates.is_one = True
        async with asyncio.timeout(30):
            await waiting
    assert [core] == opened
