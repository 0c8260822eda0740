"""Asks a decision worker directly, as Envoy's ext_authz filter would over gRPC."""

import grpc
import grpc.aio

from app.rpc.check import CHECK_PATH
from app.rpc.pb.ext_authz_pb2 import CheckRequest, CheckResponse


def check_request(*, path: str = "/", method: str = "GET", address: str = "10.96.0.1", port: int = 80) -> bytes:
    """The bytes of a Check of one HTTP request."""
    request = CheckRequest()
    request.attributes.request.http.method = method
    request.attributes.request.http.path = path
    request.attributes.request.http.host = "shop.example"
    request.attributes.destination.address.socket_address.address = address
    request.attributes.destination.address.socket_address.port_value = port
    return request.SerializeToString()


async def ask(address: str, request: bytes | None = None) -> CheckResponse:
    """One Check over a connection of its own."""
    async with grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        call = channel.unary_unary(CHECK_PATH)
        answer = await call(check_request() if request is None else request, timeout=30.0, wait_for_ready=True)
        return CheckResponse.FromString(answer)
