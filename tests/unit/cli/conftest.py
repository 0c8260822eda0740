"""The command line in this process, against an API that listens on a socket in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import threading
from dataclasses import dataclass

import pytest
import structlog
import typer.main

from app.cli.main import main
from app.limits import HttpLimits
from app.serving.http import serve_http
from tests.support.api import Api, running_api


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session", autouse=True)
def _commands_made_once():
    """Typer builds the whole tree of commands at each start; this process starts hundreds of times."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("typer.main.get_command", functools.cache(typer.main.get_command))
        yield


@pytest.fixture(name="run")
def _run(monkeypatch, capsys, tmp_path):
    """Run `gatehouse` with arguments; there is no context unless the test makes one."""
    monkeypatch.setenv("GATEHOUSE_CONTEXT", str(tmp_path / "context.yaml"))
    for name in ("GATEHOUSE_URL", "GATEHOUSE_TOKEN", "GATEHOUSE_CA_FILE"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str) -> Outcome:
        monkeypatch.setattr("sys.argv", ["gatehouse", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return Outcome(int(caught.value.code or 0), captured.out, captured.err)

    return run


@dataclass
class LiveApi:
    """An API behind a URL."""

    api: Api
    url: str
    loop: asyncio.AbstractEventLoop

    def do(self, work):
        """Run a coroutine in the API's own loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)


@pytest.fixture(name="live")
def _live(tmp_path, monkeypatch, run):
    """An API that the environment of the command line points to; its log is not the command's output."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    ready = threading.Event()
    found: list[LiveApi] = []
    stop = asyncio.Event()

    async def serve() -> None:
        async with running_api(tmp_path) as api, serve_http(api.app, "127.0.0.1", 0, HttpLimits()) as server:
            found.append(LiveApi(api, server.url, asyncio.get_running_loop()))
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(10)
    (live,) = found
    monkeypatch.setenv("GATEHOUSE_URL", live.url)
    monkeypatch.setenv("GATEHOUSE_TOKEN", live.api.admin_token)
    yield live
    with contextlib.suppress(RuntimeError):
        live.loop.call_soon_threadsafe(stop.set)
    thread.join(15)
    structlog.reset_defaults()
    assert not thread.is_alive()
