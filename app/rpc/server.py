"""gRPC servers as we want them: every bound explicit, every method guarded, health and reflection included.

Why each option has the name it has: several obvious names are silently ignored by gRPC
(`min_recv_ping_interval_without_data_ms`), and several defaults are traps (a shared port, a soft metadata bound that
rejects at random). Each is closed by a test in tests/integration/rpc.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import grpc
import grpc.aio

from app.errors import AppError, ErrorCode
from app.limits import GrpcLimits
from app.rpc.call import ImmediateMethod, RpcObserver, UnaryMethod, guarded, observe_nothing, unguarded
from app.rpc.health import Health, reflection_handler


def channel_options(limits: GrpcLimits, *, reuse_port: bool) -> list[tuple[str, int]]:
    """The channel arguments that make gRPC keep `limits`."""
    options = [
        ("grpc.max_receive_message_length", limits.max_message_bytes),
        ("grpc.max_send_message_length", limits.max_message_bytes),
        ("grpc.max_allowed_incoming_connections", limits.max_connections),
        ("grpc.max_concurrent_streams", limits.max_concurrent_streams),
        # By default gRPC cancels some of more than 1,000 calls that it has not handed over yet, at random, and all
        # beyond 3,000: of a mesh that comes at once many would be refused by chance, before our admission sees them.
        ("grpc.server.max_pending_requests", limits.max_pending_rpcs - 1),
        ("grpc.server.max_pending_requests_hard_limit", limits.max_pending_rpcs - 1),
        # Without "_recv_": the name with it exists and has no effect on a server.
        ("grpc.http2.min_ping_interval_without_data_ms", _milliseconds(limits.min_ping_interval_seconds)),
        ("grpc.http2.max_ping_strikes", limits.max_ping_strikes),
        ("grpc.keepalive_time_ms", _milliseconds(limits.keepalive_seconds)),
        ("grpc.keepalive_timeout_ms", _milliseconds(limits.keepalive_timeout_seconds)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.server_handshake_timeout_ms", _milliseconds(limits.handshake_timeout_seconds)),
        # Between the soft and the hard bound gRPC rejects at random, below the soft bound never.
        ("grpc.max_metadata_size", limits.max_metadata_bytes),
        ("grpc.absolute_max_metadata_size", limits.absolute_max_metadata_bytes),
        # On by default: then a second process on the same port takes a share of the connections, silently.
        ("grpc.so_reuseport", int(reuse_port)),
    ]
    if limits.max_connection_idle_seconds > 0:
        options.append(("grpc.max_connection_idle_ms", _milliseconds(limits.max_connection_idle_seconds)))
    if limits.max_connection_age_seconds > 0:
        options.append(("grpc.max_connection_age_ms", _milliseconds(limits.max_connection_age_seconds)))
        options.append(("grpc.max_connection_age_grace_ms", _milliseconds(limits.max_connection_age_grace_seconds)))
    return options


class GrpcServer:
    """One grpc.aio server: add listeners, start, say what serves, drain.

    Health starts as NOT_SERVING for every service; call `health.set_all(True)` when there is something to serve.
    `ports` are those that it listens on.
    """

    def __init__(
        self,
        methods: Sequence[UnaryMethod | ImmediateMethod],
        limits: GrpcLimits,
        *,
        reuse_port: bool = False,
        reflection: bool = True,
        observe: RpcObserver = observe_nothing,
    ) -> None:
        by_service: dict[str, dict[str, grpc.RpcMethodHandler[bytes, bytes]]] = defaultdict(dict)
        for method in methods:
            _, service, name = method.path.split("/")
            # No deserializer: malformed protobuf reaches our handler, which answers for it.
            by_service[service][name] = grpc.unary_unary_rpc_method_handler(
                unguarded(method)
                if isinstance(method, ImmediateMethod)
                else guarded(method, limits.rpc_budget_seconds, observe)
            )
        self.ports: set[int] = set()
        self.health = Health(by_service)
        handlers = [grpc.method_handlers_generic_handler(name, table) for name, table in by_service.items()]
        handlers.append(self.health.handler())
        if reflection:
            handlers.append(reflection_handler(by_service))
        self._server = grpc.aio.server(
            handlers=handlers,
            options=channel_options(limits, reuse_port=reuse_port),
            maximum_concurrent_rpcs=limits.max_concurrent_rpcs,
        )

    def listen(self, address: str, credentials: grpc.ServerCredentials | None = None) -> int:
        """Add a listener (`127.0.0.1:0`, `[::1]:15012`, `unix:/path`) and return its port.

        Raises:
            AppError: `FAILED_PRECONDITION` when the address is taken or cannot be bound.
        """
        try:
            if credentials is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise _cannot_listen(address, str(error)) from error
        if port == 0:
            raise _cannot_listen(address, "gRPC returned port 0")
        self.ports.add(port)
        return port

    async def start(self) -> None:
        """Accept connections."""
        await self.health.publish()
        await self._server.start()

    async def stop(self, grace_seconds: float) -> None:
        """NOT_SERVING, GOAWAY, let calls in flight end for `grace_seconds`, then cancel what is left."""
        await self.health.shut_down()
        await self._server.stop(grace_seconds)


def _cannot_listen(address: str, diagnosis: str) -> AppError:
    return AppError(
        ErrorCode.FAILED_PRECONDITION,
        f"cannot listen on {address}: it is in use or cannot be bound; stop the other process or choose another",
        diagnosis=diagnosis,
    )


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
