"""gRPC health (`grpc.health.v1`) and server reflection, with bytes parsed by us.

The libraries' servicers do the work; what is added is that malformed protobuf gets INVALID_ARGUMENT instead of the
text of an exception, as for every other method.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer

HEALTH_SERVICE: str = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
REFLECTION_SERVICE: str = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"].full_name

_ByteContext = grpc.aio.ServicerContext[bytes, bytes]


class Health:
    """The health of each service name; everything is NOT_SERVING until it is said to serve."""

    def __init__(self, services: Iterable[str]) -> None:
        self._servicer = HealthServicer()
        self._serving = dict.fromkeys(("", *services), False)

    async def set_serving(self, serving: bool, service: str = "") -> None:
        """Say whether a service serves; watchers are told. `""` stands for the whole server."""
        self._serving[service] = serving
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        await self._servicer.set(service, status)

    async def publish(self) -> None:
        """Make what has been said so far known; until then the library would call the whole server serving."""
        for service, serving in tuple(self._serving.items()):
            await self.set_serving(serving, service)

    async def set_all(self, serving: bool) -> None:
        """Say it of every service at once."""
        for service in tuple(self._serving):
            await self.set_serving(serving, service)

    async def shut_down(self) -> None:
        """NOT_SERVING for good."""
        await self._servicer.enter_graceful_shutdown()

    def handler(self) -> grpc.GenericRpcHandler:
        """The methods, for registration with a server."""

        async def check(request: bytes, context: _ByteContext) -> bytes:
            question = await _parsed(health_pb2.HealthCheckRequest, request, context)
            answer = await self._servicer.Check(question, context)
            return bytes(answer.SerializeToString())

        async def watch(request: bytes, context: _ByteContext) -> None:
            question = await _parsed(health_pb2.HealthCheckRequest, request, context)
            await self._servicer.Watch(question, context)

        return grpc.method_handlers_generic_handler(
            HEALTH_SERVICE,
            {
                "Check": grpc.unary_unary_rpc_method_handler(check),
                "Watch": grpc.unary_stream_rpc_method_handler(
                    watch,
                    response_serializer=health_pb2.HealthCheckResponse.SerializeToString,
                ),
            },
        )


def reflection_handler(services: Iterable[str]) -> grpc.GenericRpcHandler:
    """Server reflection over the given service names."""
    servicer = ReflectionServicer(service_names=(*services, HEALTH_SERVICE, REFLECTION_SERVICE))

    async def info(requests: AsyncIterator[bytes], context: _ByteContext) -> AsyncIterator[bytes]:
        async def parsed() -> AsyncIterator[Message]:
            async for request in requests:
                yield await _parsed(reflection_pb2.ServerReflectionRequest, request, context)

        async for answer in servicer.ServerReflectionInfo(parsed(), context):
            yield answer.SerializeToString()

    return grpc.method_handlers_generic_handler(
        REFLECTION_SERVICE,
        {"ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(info)},
    )


async def _parsed(message_type: type[Message], data: bytes, context: _ByteContext) -> Message:
    message = message_type()
    try:
        message.ParseFromString(data)
    except DecodeError:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the request is not valid protobuf")
    return message
