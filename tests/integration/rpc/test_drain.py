"""How a gRPC server's connections leave: found by their port, in /proc."""

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

import grpc.aio
import pytest

from app.limits import GrpcLimits
from app.rpc.call import Call, UnaryMethod
from app.rpc.drain import (
    _steer_to_the_newest,
    _waiting,
    count_connections,
    cut_connections,
    let_connections_leave,
    steer_new_connections,
    stop_accepting,
)
from app.rpc.server import GrpcServer

LIMITS = GrpcLimits(
    max_message_bytes=65_536,
    max_concurrent_streams=10,
    max_connections=100,
    max_concurrent_rpcs=10,
    max_pending_rpcs=100,
    rpc_budget_seconds=5.0,
    max_connection_age_seconds=1.0,
)


async def _echo(request: bytes, _: Call) -> bytes:
    return request


async def test_connections_leave_by_age_while_calls_go_on() -> None:
    """After the listener was shut, calls on the open connection still succeed; then it is gone, and no other comes."""
    server = GrpcServer([UnaryMethod(path="/test.Echo/Say", handle=_echo)], LIMITS, reuse_port=True)
    port = server.listen("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        say = channel.unary_unary("/test.Echo/Say")
        assert b"x" == await say(b"x")
        assert 1 == count_connections({port})
        assert 0 == count_connections({port + 1 if port < 65_535 else port - 1})
        started = time.monotonic()
        assert await stop_accepting({port}) >= 1
        assert 0 == await stop_accepting({port})
        assert b"y" == await say(b"y")
        assert 0 == await let_connections_leave({port}, within_seconds=20.0)
        assert time.monotonic() - started < LIMITS.max_connection_age_grace_seconds
        try:
            async with asyncio.timeout(1.0):
                await say(b"z")
        except (grpc.aio.AioRpcError, TimeoutError):
            pass
        else:
            raise AssertionError("a drained server took a new connection")
    await server.stop(0.1)


async def test_a_call_on_a_connection_that_is_cut_is_told_to_come_again() -> None:
    """UNAVAILABLE, and not CANCELLED as by a server that stops; then there is nobody there any more."""
    arrived = asyncio.Event()

    async def hang(_: bytes, __: Call) -> bytes:
        arrived.set()
        await asyncio.sleep(60)
        return b""

    server = GrpcServer([UnaryMethod(path="/test.Echo/Say", handle=hang)], LIMITS)
    server.listen("127.0.0.1:0")
    (port,) = server.ports
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_retries", 0)]) as channel:
        call = channel.unary_unary("/test.Echo/Say")(b"x")
        await arrived.wait()
        await stop_accepting({port})
        assert 1 == cut_connections({port})
        assert grpc.StatusCode.UNAVAILABLE is await call.code()
        assert 0 == await let_connections_leave({port}, within_seconds=5.0)
        assert 0 == cut_connections({port})
    await server.stop(0.1)


async def test_waiting_for_connections_ends_with_its_time() -> None:
    """A client that never leaves is counted, not waited for."""
    server = GrpcServer([UnaryMethod(path="/test.Echo/Say", handle=_echo)], LIMITS, reuse_port=True)
    port = server.listen("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert b"x" == await channel.unary_unary("/test.Echo/Say")(b"x")
        assert 1 == await let_connections_leave({port}, within_seconds=0.2)
    await server.stop(0.1)


def test_connections_that_wait_to_be_accepted_are_seen() -> None:
    """The kernel tells the length of the queue, which is what a listener is shut by."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert 0 == _waiting(listener)
        clients = [socket.create_connection(listener.getsockname()) for _ in range(3)]
        assert 3 == _waiting(listener)
        accepted, _ = listener.accept()
        assert 2 == _waiting(listener)
        for client in (*clients, accepted):
            client.close()


@pytest.mark.parametrize("leave", [steer_new_connections, stop_accepting])
async def test_a_socket_that_is_left_never_blocks_its_owner(leave: Callable[[set[int]], Awaitable[object]]) -> None:
    """Who accepts until nothing waits would wait for ever, and whatever else its thread serves too."""
    with ExitStack() as stack:
        listener = _sharing(stack, 0)
        listener.setblocking(False)
        port = listener.getsockname()[1]
        _sharing(stack, port).setblocking(True)
        leaving = asyncio.create_task(leave({port}))
        while not leaving.done():
            assert not os.get_blocking(listener.fileno())
            await asyncio.sleep(0)
        await leaving
        assert not os.get_blocking(listener.fileno())


def test_new_connections_go_to_the_newest_listener_until_the_others_have_left() -> None:
    """The successor, which joined last, takes all of them; then the ones that are left share them again."""
    with ExitStack() as stack:
        first = _sharing(stack, 0)
        port = first.getsockname()[1]
        assert not _steer_to_the_newest(first)  # nobody else is there
        second = _sharing(stack, port)
        newest = _sharing(stack, port)
        assert _steer_to_the_newest(first)
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(30)]
        assert (0, 0, 30) == (_waiting(first), _waiting(second), _waiting(newest))
        first.shutdown(socket.SHUT_RD)
        clients += [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(60)]
        assert 30 < _waiting(newest) < 90
        assert 90 == _waiting(second) + _waiting(newest)


def _sharing(stack: ExitStack, port: int) -> socket.socket:
    listener = stack.enter_context(socket.socket())
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(128)
    return listener
