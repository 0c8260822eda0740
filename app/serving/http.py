"""A hardened HTTP/1.1 listener for any ASGI application, inside a running event loop.

uvicorn's h11 connection and configuration, with our own listening: connections are counted from the moment they
are accepted (a TLS handshake included), every bound of `HttpLimits` holds, no signal handler is installed, and
TLS can be replaced while serving. It knows nothing of routes; see `app.serving.bounded` for bodies and budgets.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from email.utils import formatdate
from typing import Any, Self, cast

from uvicorn.config import Config
from uvicorn.server import ServerState

from app.errors import AppError, ErrorCode
from app.limits import HttpLimits
from app.serving.binding import TcpEndpoint, UnixEndpoint, listen_tcp, listen_unix
from app.serving.bounded import AsgiApp, BoundedApp
from app.serving.connection import LINGER_SECONDS, HardenedProtocol
from app.serving.gate import ConnectionGate
from app.serving.refusals import TOO_MANY_CONNECTIONS
from app.telemetry.metrics import HTTP_REFUSALS, Tally

_LEAVE_POLL_SECONDS = 0.05
_SHUT = {errno.EINVAL, errno.EBADF}  # of a listening socket that was shut from outside
_OUT_OF_DESCRIPTORS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_MAX_LINGERING_REFUSALS = 64


class HttpServer:
    """One listener. `start` returns when it listens; `stop` when everything is closed. An async context manager."""

    def __init__(
        self,
        app: AsgiApp,
        endpoint: TcpEndpoint | UnixEndpoint,
        *,
        limits: HttpLimits,
        tls: ssl.SSLContext | Callable[[], ssl.SSLContext] | None = None,
        lifespan: bool = False,
        body_limits: Mapping[str, int] | None = None,
    ) -> None:
        """Prepare; a `tls` that is called gives the context of every new connection, and must do so at once."""
        self._app = BoundedApp(app, limits, body_limits)
        self._config = _uvicorn_config(self._app, limits, lifespan=lifespan)
        self._limits = limits
        self._endpoint = endpoint
        self._tls = tls
        self._gate: ConnectionGate[HardenedProtocol] = ConnectionGate(
            max_connections=limits.max_connections, max_per_address=limits.max_connections_per_address
        )
        self._state = ServerState()
        self._app_state: dict[str, Any] = {}
        self._listeners: list[socket.socket] = []
        self._loops: list[asyncio.Task[None]] = []
        self._opening: set[asyncio.Task[None]] = set()
        self._refusing: set[asyncio.Task[None]] = set()
        #: What the listener did by itself: refused_connections, sent_away, headers_too_slow, body_too_slow ...
        self.counters: Counter[str] = Counter()
        self._tally = Tally(HTTP_REFUSALS)

    @property
    def port(self) -> int:
        """The TCP port, the bound one after `start`; 0 for a UNIX socket."""
        return self._endpoint.port if isinstance(self._endpoint, TcpEndpoint) else 0

    @property
    def url(self) -> str:
        """`http://host:port`, or `https://`, or `unix:/path`."""
        if isinstance(self._endpoint, UnixEndpoint):
            return f"unix:{self._endpoint.path}"
        host = f"[{self._endpoint.host}]" if ":" in self._endpoint.host else self._endpoint.host
        return f"{'https' if self._tls else 'http'}://{host}:{self._endpoint.port}"

    @property
    def connection_count(self) -> int:
        """How many connections are open now."""
        return len(self._gate)

    def replace_tls(self, tls: ssl.SSLContext) -> None:
        """Use another certificate for new connections; the open ones keep theirs."""
        if self._tls is None:
            raise AppError(ErrorCode.FAILED_PRECONDITION, "This listener was started without TLS.")
        self._tls = tls

    async def start(self) -> None:
        """Open the address and serve.

        Raises:
            AppError: `FAILED_PRECONDITION` when the address cannot be opened, or the application did not start.
        """
        if isinstance(self._endpoint, UnixEndpoint):
            self._listeners = [listen_unix(self._endpoint.path, self._limits.backlog, self._endpoint.mode)]
        else:
            endpoint = self._endpoint
            self._listeners = listen_tcp(endpoint.host, endpoint.port, self._limits.backlog, shared=endpoint.shared)
            self._endpoint = replace(endpoint, port=self._listeners[0].getsockname()[1])
        self._config.load()
        self._lifespan = self._config.lifespan_class(self._config)
        await self._lifespan.startup()
        if self._lifespan.should_exit:
            self._close_listeners()
            raise AppError(ErrorCode.FAILED_PRECONDITION, "The application did not start; the log says why.")
        self._app_state = self._lifespan.state
        self._refresh_date()
        self._loops = [asyncio.create_task(self._accept(listener)) for listener in self._listeners]
        self._loops.append(asyncio.create_task(self._sweep()))

    async def let_leave(self, *, within_seconds: float, quiet_seconds: float) -> int:
        """Let the connections go while they are answered on; how many are left when the time is over.

        Every answer from now on ends its connection; one on which nothing came for `quiet_seconds` is closed. New
        connections must already go elsewhere.
        """
        loop = asyncio.get_running_loop()
        self._app.leaving = True
        until = loop.time() + within_seconds
        while len(self._gate) and loop.time() < until:
            for connection in self._gate.members():
                connection.close_if_quiet(loop.time() - quiet_seconds)
            await asyncio.sleep(_LEAVE_POLL_SECONDS)
        return len(self._gate)

    async def stop(self) -> None:
        """Accept no more, let requests in progress end within the bound, close everything."""
        if not self._loops:
            return
        *accepting, sweep = self._loops
        self._loops = []
        await _cancelled({*accepting, *self._opening, *self._refusing})
        self._close_listeners()
        for connection in self._gate.members():
            connection.shutdown()
        try:
            async with asyncio.timeout(self._limits.shutdown_seconds):
                while len(self._gate) or self._state.tasks:  # noqa: ASYNC110 - the tasks are uvicorn's
                    await asyncio.sleep(0.02)
        except TimeoutError:
            pass
        finally:  # also when whoever stops us has less patience than we
            for connection in self._gate.members():
                connection.abort()
            await _cancelled({*self._state.tasks, sweep})
        self._count()
        await self._lifespan.shutdown()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, peer = await loop.sock_accept(listener)
            except OSError as error:
                if error.errno in _SHUT:
                    return
                # The peer went away again, or we are out of descriptors: then waiting is all that helps.
                self.counters["accept_errors"] += 1
                await asyncio.sleep(0.1 if error.errno in _OUT_OF_DESCRIPTORS else 0)
                continue
            address = peer[0] if isinstance(peer, tuple) else ""
            if address:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            protocol = HardenedProtocol(
                self._config,
                self._state,
                self._app_state,
                limits=self._limits,
                address=address,
                opened_at=loop.time(),
                on_gone=self._gate.leave,
                counters=self.counters,
            )
            if self._gate.enter(protocol, loop.time()):
                protocol.handshake = _kept(self._opening, self._open(connection, protocol))
            elif len(self._refusing) < _MAX_LINGERING_REFUSALS:
                self.counters["refused_connections"] += 1
                _kept(self._refusing, self._refuse(connection))
            else:
                self.counters["refused_connections"] += 1
                connection.close()

    async def _open(self, connection: socket.socket, protocol: HardenedProtocol) -> None:
        # From here on the loop owns the socket: it closes it also when the handshake fails or is cancelled.
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: protocol, connection, **self._tls_arguments()
            )
        except OSError:  # includes ssl.SSLError and the handshake timeout
            self.counters["handshake_errors"] += 1
            self._gate.leave(protocol)
        except asyncio.CancelledError:
            self._gate.leave(protocol)
            raise

    async def _refuse(self, connection: socket.socket) -> None:
        """Say 503 to a connection that found no room, and give it a moment to read that."""
        farewell = _Farewell()
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                await asyncio.get_running_loop().connect_accepted_socket(
                    lambda: farewell, connection, **self._tls_arguments()
                )
                await farewell.gone.wait()
        except (OSError, TimeoutError):
            pass
        finally:
            farewell.abort()

    def _tls_arguments(self) -> dict[str, Any]:
        if self._tls is None:
            return {}
        return {
            "ssl": self._tls() if callable(self._tls) else self._tls,
            "ssl_handshake_timeout": self._limits.header_timeout_seconds,
            "ssl_shutdown_timeout": LINGER_SECONDS,
        }

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        shortest = min(self._limits.header_timeout_seconds, self._limits.body_grace_seconds)
        interval = min(0.25, max(0.02, shortest / 4))
        while True:
            await asyncio.sleep(interval)
            self._refresh_date()
            self._count()
            now = loop.time()
            for connection in self._gate.members():
                connection.check(now)

    def _count(self) -> None:
        self._tally.flush({(reason,): count for reason, count in self.counters.items()})

    def _refresh_date(self) -> None:
        self._state.default_headers = [(b"date", formatdate(time.time(), usegmt=True).encode())]

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners = []
        if isinstance(self._endpoint, UnixEndpoint):
            self._endpoint.path.unlink(missing_ok=True)


def serve_http(
    app: AsgiApp,
    host: str,
    port: int,
    limits: HttpLimits,
    tls: ssl.SSLContext | None = None,
    *,
    lifespan: bool = False,
    body_limits: Mapping[str, int] | None = None,
) -> HttpServer:
    """Make a listener on a TCP address, to be used as a context manager or with `start` and `stop`."""
    return HttpServer(app, TcpEndpoint(host, port), limits=limits, tls=tls, lifespan=lifespan, body_limits=body_limits)


class _Farewell(asyncio.Protocol):
    """Writes the 503 of a full house and hangs up."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without saying so
        self._transport.write(TOO_MANY_CONNECTIONS.raw())
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def abort(self) -> None:
        """Hang up on who does not."""
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.gone.set()


def _uvicorn_config(app: AsgiApp, limits: HttpLimits, *, lifespan: bool) -> Config:
    """Everything that uvicorn would otherwise choose, chosen."""
    return Config(
        app,
        loop="none",
        http=HardenedProtocol,
        http2=False,
        ws="none",
        ws_max_size=1,
        ws_max_queue=1,
        ws_per_message_deflate=False,
        lifespan="on" if lifespan else "off",
        interface="asgi3",
        env_file=None,
        log_config=None,
        log_level=None,
        access_log=False,
        use_colors=False,
        reload=False,
        workers=1,
        proxy_headers=False,
        forwarded_allow_ips=[],
        server_header=False,
        date_header=False,  # ours, refreshed by the sweep
        root_path="",
        limit_concurrency=None,  # it counts stuck connections; the gate does better
        limit_max_requests=None,
        backlog=limits.backlog,
        timeout_keep_alive=limits.keep_alive_seconds,  # type: ignore[arg-type] # handed to call_later as it is
        timeout_graceful_shutdown=None,  # `stop` has its own bound
        headers=[],
        factory=False,
        h11_max_incomplete_event_size=limits.max_header_bytes,
        reset_contextvars=True,
    )


def _kept(tasks: set[asyncio.Task[None]], work: Any) -> asyncio.Task[None]:
    task: asyncio.Task[None] = asyncio.create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return task


async def _cancelled(tasks: set[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=1.0)
