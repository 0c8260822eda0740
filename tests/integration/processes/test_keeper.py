"""A place that a process is kept in: dead, hung, refused and replaced processes."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.errors import AppError
from app.limits import ProcessLimits
from app.settings import load_settings, reveal
from app.supervisor.keeper import Keeper
from app.supervisor.process import Program

LIMITS = ProcessLimits(heartbeat_seconds=0.1, drain_min_seconds=0.0, drain_max_seconds=5.0)


def _program(directory: Path, **extra: Any) -> Program:
    settings = load_settings(
        environ={}, state_dir=directory, limits={"process": {"heartbeat_seconds": LIMITS.heartbeat_seconds}}
    )
    return Program(
        name="child",
        module="tests.support.child_program",
        assignment={"settings": reveal(settings), "extra": extra},
        metrics_directory=directory,
    )


async def _until(condition: Callable[[], bool], *, within: float = 60.0) -> None:
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def _kept(directory: Path, *, limits: ProcessLimits = LIMITS, **extra: Any) -> AsyncIterator[Keeper]:
    keeper = Keeper(lambda: _program(directory, **extra), limits)
    task = asyncio.create_task(keeper.run())
    try:
        await _until(lambda: keeper.is_ready)
        yield keeper
    finally:
        keeper.kill()
        await task


async def test_a_killed_process_is_replaced(tmp_path: Path) -> None:
    """Death by a signal, as by the OOM killer, is noticed by itself, long before a silence would be."""
    patient = replace(LIMITS, heartbeat_timeout_seconds=600.0)
    async with _kept(tmp_path, limits=patient) as keeper:
        assert keeper.current is not None
        old = keeper.current
        os.kill(old.pid, signal.SIGKILL)
        await _until(lambda: keeper.current is not old and keeper.is_ready)
        assert 1 == keeper.restarts


async def test_a_stopped_process_is_replaced(tmp_path: Path) -> None:
    """A process that is alive but says nothing is killed: its clients would hang."""
    async with _kept(tmp_path) as keeper:
        assert keeper.current is not None
        old = keeper.current
        os.kill(old.pid, signal.SIGSTOP)
        await _until(lambda: keeper.current is not old and keeper.is_ready)
        assert not old.is_alive


async def test_the_new_process_is_ready_before_the_old_one_leaves(tmp_path: Path) -> None:
    """While a process is replaced, one that serves is always there."""
    async with _kept(tmp_path, drain_seconds=0.5) as keeper:
        old = keeper.current
        assert old is not None
        replacing = asyncio.create_task(keeper.replace())
        await _until(lambda: old.is_leaving)
        assert keeper.current is not old
        assert keeper.is_ready
        assert old.is_alive
        assert await replacing
        assert not old.is_alive
        assert 0 == old.exit_code
        assert (0, 1) == (keeper.restarts, keeper.replacements)


async def test_a_process_that_does_not_become_ready_replaces_nothing(tmp_path: Path) -> None:
    """The old one stays when the new one has nothing to serve."""
    extra: dict[str, Any] = {}
    keeper = Keeper(lambda: _program(tmp_path, **extra), ProcessLimits(heartbeat_seconds=0.1, start_seconds=5.0))
    task = asyncio.create_task(keeper.run())
    await _until(lambda: keeper.is_ready)
    old = keeper.current
    extra["ready_after"] = 3600.0
    assert not await keeper.replace()
    assert keeper.current is old
    assert keeper.is_ready
    keeper.kill()
    await task


async def test_a_refused_start_leaves_the_place_empty(tmp_path: Path) -> None:
    """What trying again cannot help is said once, in the words of the process."""
    keeper = Keeper(lambda: _program(tmp_path, refuse="the passphrase is wrong"), LIMITS)
    await keeper.run()
    assert "the passphrase is wrong" == keeper.refusal


async def test_a_restart_that_is_refused_is_said_and_tried_again_in_its_time(tmp_path: Path) -> None:
    """What served before may be needed again: others go on beside it, and nobody has to start it when it is mended."""
    extra: dict[str, Any] = {}
    limits = replace(LIMITS, restart_backoff_max_seconds=0.5)
    keeper = Keeper(lambda: _program(tmp_path, **extra), limits)
    task = asyncio.create_task(keeper.run())
    await _until(lambda: keeper.is_ready)
    extra["refuse"] = "the ledger went backwards"
    assert keeper.current is not None
    os.kill(keeper.current.pid, signal.SIGKILL)
    await _until(lambda: keeper.restarts >= 2)
    assert "refused: the ledger went backwards" == keeper.what_is_missing() == keeper.note()
    extra.clear()
    await _until(lambda: keeper.is_ready)
    assert "ok" == keeper.note()
    keeper.kill()
    await task


async def test_an_unavailable_dependency_is_tried_again(tmp_path: Path) -> None:
    """A database that is away at the start is no reason to give up."""
    extra: dict[str, Any] = {"unavailable": "the database is away"}
    keeper = Keeper(lambda: _program(tmp_path, **extra), LIMITS)
    task = asyncio.create_task(keeper.run())
    await _until(lambda: keeper.restarts >= 1)
    extra.clear()
    await _until(lambda: keeper.is_ready)
    keeper.kill()
    await task


async def test_a_process_that_ignores_the_drain_is_killed(tmp_path: Path) -> None:
    """`drain_max_seconds` holds whatever the process does."""
    limits = ProcessLimits(heartbeat_seconds=0.1, drain_min_seconds=0.0, drain_max_seconds=0.2)
    async with _kept(tmp_path, limits=limits, drain_seconds=60.0) as keeper:
        assert keeper.current is not None
        process = keeper.current
        started = time.monotonic()
        await keeper.stop(min_seconds=0.0, max_seconds=0.2)
        assert time.monotonic() - started < 30.0
        assert -signal.SIGKILL == process.exit_code


async def test_commands_are_answered_and_stray_output_does_no_harm(tmp_path: Path) -> None:
    """What a library prints goes to stderr, not between the supervisor's lines."""
    async with _kept(tmp_path) as keeper:
        assert keeper.current is not None
        answer = await keeper.current.command("echo", {"x": 1}, timeout_seconds=30.0)
        assert {"name": "echo", "x": 1} == answer
        with pytest.raises(AppError, match="told to fail"):
            await keeper.current.command("fail", {}, timeout_seconds=30.0)


async def test_a_worker_sees_no_secret_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only allow-listed variables reach a worker."""
    monkeypatch.setenv("GATEHOUSE_DATABASE__URL", "postgresql://u:p@h/d")
    monkeypatch.setenv("SOME_SECRET", "x")
    async with _kept(tmp_path) as keeper:
        assert keeper.current is not None
        assert [] == keeper.current.heartbeat.facts["environment"]


async def test_a_child_ends_when_its_supervisor_is_gone(tmp_path: Path) -> None:
    """The end of its input is the end of the child, so no orphan keeps a port."""
    async with _kept(tmp_path) as keeper:
        assert keeper.current is not None
        process = keeper.current
        assert process._process.stdin is not None
        process._process.stdin.close()
        async with asyncio.timeout(30.0):
            await process.wait_until_ended()
        assert 0 == process.exit_code
