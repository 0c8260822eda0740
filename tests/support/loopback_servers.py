"""Servers on loopback of which nothing outlives their context: no connection, no task.

A test's loop ends with its test. A connection that is still open then, to a client that does not answer (a process that
was killed, say), is a leak that the interpreter may notice only during another test, which would fail for it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from aiohttp import web

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def stream_server(serve: Serve, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """The port of a server that closes each connection after `serve`, which may end by the peer's going away."""
    open_now: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError, EOFError):
                await serve(reader, writer)
        finally:
            writer.close()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_now[asyncio.create_task(serve_one(reader, writer))] = writer

    server = await asyncio.start_server(accepted, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        await _stop_listening(server)
        for task in open_now:
            task.cancel()
        outcomes = await asyncio.gather(*open_now, return_exceptions=True)
        for writer in open_now.values():
            writer.transport.abort()
        await _let_the_loop_go_on()
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome


@asynccontextmanager
async def web_site(
    application: web.Application, *, tls: ssl.SSLContext | None = None, socket_path: str = ""
) -> AsyncIterator[int]:
    """The port of a web application, or 0 on a UNIX socket; a handler whose client is gone is cancelled."""
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    assert runner.server is not None
    loop = asyncio.get_running_loop()
    listener = await (
        loop.create_unix_server(runner.server, socket_path, ssl=tls)
        if socket_path
        else loop.create_server(runner.server, "127.0.0.1", 0, ssl=tls)
    )
    try:
        yield 0 if socket_path else listener.sockets[0].getsockname()[1]
    finally:
        await _stop_listening(listener)
        transports = [connection.transport for connection in runner.server.connections]
        await runner.cleanup()
        for transport in transports:  # closing one by TLS waits for the peer to agree
            if transport is not None:
                transport.abort()
        await _let_the_loop_go_on()


async def _stop_listening(server: asyncio.Server) -> None:
    """What was just accepted is a connection before the server closes: asyncio would lose it otherwise (3.11)."""
    for listener in server.sockets:
        asyncio.get_running_loop().remove_reader(listener.fileno())
    await _let_the_loop_go_on()
    server.close()


async def _let_the_loop_go_on() -> None:
    """A connection that was just accepted or aborted is so only some turns of the loop later."""
    for _ in range(5):
        await asyncio.sleep(0)
