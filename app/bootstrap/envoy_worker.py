"""A decision worker inside an Envoy: the ASGI application that the `pyvoy` module of that Envoy loads.

Envoy accepts the connections of port 9191, terminates HTTP/2 and hands each call over; everything else is the worker
of `compose_decision`, with the same assignment on standard input and the same heartbeats. Envoy opens its listener
only when the application has started, which is when there is a snapshot to decide by.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from functools import partial
from pathlib import Path

import structlog
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from app.bootstrap.child import EXIT_FAILED, Child, read_assignment
from app.bootstrap.decision import compose_decision
from app.rpc.check import CHECK_PATH
from app.rpc.drain import is_listening, steer_new_connections
from app.rpc.grpc_over_asgi import Answer, AsgiCall, GrpcOverAsgi, Receive, Scope, Send
from app.rpc.health import HEALTH_SERVICE

_log = structlog.get_logger(__name__)

ADMIN_SOCKET = "GATEHOUSE_ENVOY_ADMIN"  # the environment variable that names Envoy's own UNIX socket
_ADMIN_SECONDS = 5.0
_CHECK_SERVICE = CHECK_PATH.split("/")[1]


class EnvoyHost:
    """The Envoy around this process, as the worker sees it; also the application that Envoy calls."""

    def __init__(self, port: int, admin_socket: Path, *, max_message_bytes: int) -> None:
        self.port = port
        self.started = asyncio.Event()
        self._admin_socket = admin_socket
        self._most = max_message_bytes
        self._leaving = False
        self._listens = False
        self._grpc: GrpcOverAsgi | None = None

    @property
    def is_serving(self) -> bool:
        """Whether Envoy accepts connections, which it does some time after it was told what to answer."""
        if not self._listens and self._grpc is not None:
            self._listens = is_listening({self.port})
        return self._listens

    def serve(self, answer: Answer) -> None:
        """Answer Checks with this from now on, and say SERVING."""
        methods = {CHECK_PATH: answer, f"/{HEALTH_SERVICE}/Check": self._health}
        self._grpc = GrpcOverAsgi(methods, max_message_bytes=self._most)
        self.started.set()

    def leave(self) -> None:
        """Say NOT_SERVING; Checks are answered on."""
        self._leaving = True

    async def stop_accepting(self) -> None:
        """Leave new connections to the other workers; those that there are end by age."""
        await steer_new_connections({self.port})
        try:
            async with asyncio.timeout(_ADMIN_SECONDS):
                await self._drain_listeners()
        except (OSError, TimeoutError) as error:
            _log.warning("envoy_not_drained", reason=type(error).__name__)

    async def _drain_listeners(self) -> None:
        reader, writer = await asyncio.open_unix_connection(str(self._admin_socket))
        try:
            writer.write(b"POST /drain_listeners HTTP/1.1\r\nHost: admin\r\nContent-Length: 0\r\n\r\n")
            await reader.readline()
        finally:
            writer.close()

    def forget(self) -> None:
        """Remove what the process leaves in the file system."""
        with suppress(OSError):
            self._admin_socket.unlink()

    def _health(self, request: bytes, _call: AsgiCall) -> bytes:
        try:
            service = health_pb2.HealthCheckRequest.FromString(request).service
        except DecodeError:
            service = "?"
        status = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        if service in ("", _CHECK_SERVICE):
            serving = self.is_serving and not self._leaving
            status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        return bytes(health_pb2.HealthCheckResponse(status=status).SerializeToString())

    async def call(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one call."""
        assert self._grpc is not None  # Envoy listens only after the start
        await self._grpc(scope, receive, send)


class _Application:
    """What Envoy loads. Its lifespan is that of the worker."""

    def __init__(self) -> None:
        self._host: EnvoyHost | None = None
        self._life: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI: one call, or the life of the process."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http" and self._host is not None:
            await self._host.call(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        child = read_assignment()
        if child is None:
            os._exit(EXIT_FAILED)
        settings = child.assignment.settings
        host = EnvoyHost(
            settings.listen.check.port,
            Path(os.environ[ADMIN_SOCKET]),
            max_message_bytes=settings.limits.check_grpc.max_message_bytes,
        )
        self._host = host
        self._life = asyncio.create_task(_run(child, host))
        await host.started.wait()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})


async def _run(child: Child, host: EnvoyHost) -> None:
    """The worker's whole life. When it is over, so is the process: nothing in Envoy is worth an orderly end."""
    code = EXIT_FAILED
    try:
        code = await child.run(partial(compose_decision, host=host), owns_signals=False)
    except Exception:  # noqa: BLE001 - the supervisor starts another one; the log says why
        _log.exception("process_crashed")
    finally:
        host.forget()
        os._exit(code)


application = _Application()
