"""The bounds and traps of gRPC servers, each over a real socket (docs/operations.md says why each is what it is)."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc
import grpc.aio
import h2.events
import h2.settings
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from structlog.testing import capture_logs

from app.errors import AppError, ErrorCode
from app.limits import GrpcLimits, Limits
from app.rpc.call import Call, UnaryMethod
from app.rpc.server import GrpcServer
from tests.support.raw_h2 import connect

SERVICE = "test.Doors"
ECHO = f"/{SERVICE}/Echo"
LIMITS = Limits().ca_grpc


async def echo(request: bytes, call: Call) -> bytes:
    return request


class Gate:
    """A handler that waits to be opened."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.calls = 0
        self.opened = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def __call__(self, request: bytes, call: Call) -> bytes:
        self.calls += 1
        self.entered.set()
        try:
            await self.opened.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return b"opened"


@asynccontextmanager
async def running(methods: Sequence[UnaryMethod], limits: GrpcLimits = LIMITS) -> AsyncIterator[tuple[GrpcServer, int]]:
    server = GrpcServer(methods, limits)
    port = server.listen("127.0.0.1:0")
    await server.start()
    try:
        yield server, port
    finally:
        await server.stop(0)


def occupy_the_loop_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def channel(port: int) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)])


def method(handle, name: str = "Echo") -> UnaryMethod:
    return UnaryMethod(path=f"/{SERVICE}/{name}", handle=handle)


async def test_m5_an_exception_is_internal_and_opaque_and_its_text_is_in_the_log() -> None:
    """A crash of a handler shows the client a request id and nothing of the exception."""

    async def crash(request: bytes, call: Call) -> bytes:
        raise ValueError("secret of the house")

    with capture_logs() as logs:
        async with running([method(crash)]) as (_, port), channel(port) as client:
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await client.unary_unary(ECHO)(b"x")

    error = failure.value
    request_id = dict(error.trailing_metadata() or ())["x-request-id"]
    assert error.code() is grpc.StatusCode.INTERNAL
    assert error.details() == f"internal error (request {request_id})"
    assert "secret" not in str(error)
    [line] = [line for line in logs if line["event"] == "rpc_crashed"]
    assert line["request_id"] == request_id
    assert "secret of the house" in line["traceback"]


async def test_an_internal_error_of_ours_is_as_opaque() -> None:
    """An AppError INTERNAL keeps its detail and diagnosis inside."""

    async def fail(request: bytes, call: Call) -> bytes:
        raise AppError(ErrorCode.INTERNAL, "the lint found x", diagnosis="serial is zero")

    with capture_logs() as logs:
        async with running([method(fail)]) as (_, port), channel(port) as client:
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await client.unary_unary(ECHO)(b"x")

    assert failure.value.code() is grpc.StatusCode.INTERNAL
    assert "lint" not in (failure.value.details() or "")
    assert [line["reason"] for line in logs] == ["the lint found x; serial is zero"]


async def test_m6_malformed_protobuf_reaches_our_handler_as_bytes() -> None:
    """Nothing is decoded before a handler sees it, so a handler can answer for what is malformed."""
    async with running([method(echo)]) as (_, port), channel(port) as client:
        assert await client.unary_unary(ECHO)(b"\xff\xff\xff") == b"\xff\xff\xff"


async def test_m6_health_and_reflection_answer_malformed_protobuf_with_invalid_argument() -> None:
    """The services that the libraries bring do not leak a decoder's text either."""
    async with running([method(echo)]) as (_, port), channel(port) as client:
        with pytest.raises(grpc.aio.AioRpcError) as health:
            await client.unary_unary("/grpc.health.v1.Health/Check")(b"\xff\xff")
        stream = client.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")(
            iter([b"\xff\xff"])
        )
        with pytest.raises(grpc.aio.AioRpcError) as reflection:
            await stream.read()

    assert [grpc.StatusCode.INVALID_ARGUMENT] * 2 == [health.value.code(), reflection.value.code()]


async def test_m7_calls_beyond_the_last_resort_are_shed_at_once() -> None:
    """More concurrent calls than the server's bound get RESOURCE_EXHAUSTED without waiting."""
    gate = Gate()
    async with running([method(gate)], replace(LIMITS, max_concurrent_rpcs=2)) as (_, port), channel(port) as client:
        held = [asyncio.ensure_future(client.unary_unary(ECHO)(b"x")) for _ in range(2)]
        while gate.calls < 2:
            await asyncio.sleep(0.01)
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await client.unary_unary(ECHO)(b"x")
        assert not any(call.done() for call in held)
        gate.opened.set()
        answers = await asyncio.gather(*held)

    assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert answers == [b"opened", b"opened"]


async def test_calls_that_come_at_once_wait_up_to_the_bound_and_none_is_cancelled_at_random() -> None:
    """A loop that was busy answers the calls that came meanwhile; by itself gRPC cancels some of more than 1,000."""
    waiting = 1_500
    limits = replace(LIMITS, max_pending_rpcs=waiting, max_concurrent_streams=2 * waiting)
    async with running([method(echo)], limits) as (_, port):
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)]) as client:
            call = client.unary_unary(ECHO)
            assert b"x" == await asyncio.to_thread(call, b"x", timeout=30)
            # One is let in beside those that wait: the server always asks gRPC for the next.
            calls = [call.future(b"x") for _ in range(1 + waiting + 1)]
            occupy_the_loop_until(lambda: any(call.done() for call in calls))
            codes = await asyncio.to_thread(lambda: Counter(call.code() for call in calls))

    assert {grpc.StatusCode.OK: 1 + waiting, grpc.StatusCode.CANCELLED: 1} == codes


def test_more_calls_may_wait_than_may_be_worked_on() -> None:
    """So we choose whom to refuse, and say so, before gRPC cancels whoever comes last; two calls a connection fit."""
    limits = Limits()
    for listener in (limits.ca_grpc, limits.ca_mtls_grpc, limits.check_grpc):
        assert max(listener.max_concurrent_rpcs, 2 * listener.max_connections) <= listener.max_pending_rpcs


async def test_connections_beyond_the_bound_are_turned_away() -> None:
    """A listener with all its connections taken refuses the next one, and takes one again when one has left."""
    async with running([method(echo)], replace(LIMITS, max_connections=2)) as (_, port):
        async with channel(port) as first, channel(port) as second:
            answers = [await client.unary_unary(ECHO)(b"x", timeout=30) for client in (first, second)]
            async with channel(port) as third:
                with pytest.raises(grpc.aio.AioRpcError) as failure:
                    await third.unary_unary(ECHO)(b"x", timeout=30)
        async with channel(port) as later:
            after = await later.unary_unary(ECHO)(b"y", timeout=5, wait_for_ready=True)

    assert answers == [b"x", b"x"]
    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
    assert after == b"y"


async def test_m8_a_taken_port_is_a_clear_error() -> None:
    """A second server on the same port is refused in words instead of taking a share of the connections."""
    async with running([method(echo)]) as (_, port):
        with pytest.raises(AppError, match=f"cannot listen on 127.0.0.1:{port}: it is in use") as failure:
            GrpcServer([method(echo)], LIMITS).listen(f"127.0.0.1:{port}")

    assert failure.value.code is ErrorCode.FAILED_PRECONDITION


async def test_m8_a_port_is_shared_when_asked_for() -> None:
    """Decision workers share a port on purpose."""
    first = GrpcServer([method(echo)], LIMITS, reuse_port=True)
    port = first.listen("127.0.0.1:0")

    assert GrpcServer([method(echo)], LIMITS, reuse_port=True).listen(f"127.0.0.1:{port}") == port


async def test_m9_metadata_of_nine_and_a_half_kilobytes_passes_every_time() -> None:
    """A large token never fails at random: by default gRPC rejects some of these and lets others pass."""
    async with running([method(echo)]) as (_, port), channel(port) as client:
        call = client.unary_unary(ECHO)
        answers = [await call(b"x", metadata=[("authorization", "Bearer " + "t" * 9_500)]) for _ in range(60)]

    assert answers == [b"x"] * 60


async def test_m9_metadata_beyond_the_hard_bound_never_passes() -> None:
    """40 KB of metadata are refused by the transport, every time."""
    async with running([method(echo)]) as (_, port), channel(port) as client:
        codes = set()
        for _ in range(10):
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await client.unary_unary(ECHO)(b"x", metadata=[("authorization", "t" * 40_000)])
            codes.add(failure.value.code())

    assert codes == {grpc.StatusCode.RESOURCE_EXHAUSTED}


async def test_m9_between_the_two_bounds_some_pass_and_some_do_not() -> None:
    """Both bounds are in force: 24 KB, halfway between them, are rejected at random (hence no token may be as long)."""
    async with running([method(echo)]) as (_, port), channel(port) as client:
        codes = set()
        for _ in range(60):
            call = client.unary_unary(ECHO)(b"x", metadata=[("authorization", "t" * 24_000)])
            codes.add(await call.code())

    assert codes == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert Limits().certificate.max_token_bytes < LIMITS.max_metadata_bytes - 2_048


async def test_m10_a_message_beyond_the_bound_is_resource_exhausted() -> None:
    """64 KiB pass, one byte more does not, and the next good call is served."""

    async def measure(request: bytes, call: Call) -> bytes:
        return str(len(request)).encode()

    async with running([method(measure)]) as (_, port), channel(port) as client:
        call = client.unary_unary(ECHO)
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await call(b"x" * (LIMITS.max_message_bytes + 1))
        largest = await call(b"x" * LIMITS.max_message_bytes)

    assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert largest == b"65536"


async def test_m10_an_answer_beyond_the_bound_is_not_sent() -> None:
    """What we send is bounded, too."""

    async def inflate(request: bytes, call: Call) -> bytes:
        return b"x" * (LIMITS.max_message_bytes + 1)

    async with running([method(inflate)]) as (_, port), channel(port) as client:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await client.unary_unary(ECHO)(b"x")

    assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_m11_pings_within_the_interval_do_not_end_a_slow_call() -> None:
    """A client that pings during a slow call, as ztunnel does, keeps its connection; gRPC's default would cut it."""
    gate = Gate()
    limits = replace(LIMITS, min_ping_interval_seconds=0.02)
    async with running([method(gate)], limits) as (_, port), connect(port) as client:
        stream = await client.call(ECHO)
        await gate.entered.wait()
        for _ in range(15):
            await client.ping()
            await asyncio.sleep(0.08)
        gate.opened.set()
        status, _ = await client.status(stream)

    assert status == "0"


async def test_m11_a_flood_of_pings_is_cut() -> None:
    """Pings faster than the interval allows end the connection after a few strikes."""
    gate = Gate()
    async with running([method(gate)]) as (_, port), connect(port) as client:
        await client.call(ECHO)
        await gate.entered.wait()
        for _ in range(LIMITS.max_ping_strikes + 3):
            await client.ping()
            await asyncio.sleep(0.02)
        goaway = await client.wait_for(h2.events.ConnectionTerminated)

    assert goaway.additional_data == b"too_many_pings"


async def test_m11_fewer_strikes_than_the_bound_are_forgiven() -> None:
    """The number of strikes is the one of the limits and not gRPC's default of two."""
    gate = Gate()
    async with running([method(gate)]) as (_, port), connect(port) as client:
        stream = await client.call(ECHO)
        await gate.entered.wait()
        for _ in range(LIMITS.max_ping_strikes):
            await client.ping()
            await asyncio.sleep(0.02)
        gate.opened.set()
        status, _ = await client.status(stream)

    assert status == "0"


async def test_m12_a_call_without_deadline_ends_within_our_budget() -> None:
    """A handler that never answers is cut, and the client is told so."""
    gate = Gate()
    async with running([method(gate)], replace(LIMITS, rpc_budget_seconds=0.2)) as (_, port), channel(port) as client:
        started = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await client.unary_unary(ECHO)(b"x")
        took = time.monotonic() - started

    assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "not answered within" in (failure.value.details() or "")
    assert took < 30  # the client set none
    assert gate.cancelled.is_set()


async def test_a_timeout_of_the_handler_itself_is_not_mistaken_for_the_budget() -> None:
    """A TimeoutError from inside is a crash, not the caller's deadline."""

    async def time_out(request: bytes, call: Call) -> bytes:
        raise TimeoutError("a library gave up")

    async with running([method(time_out)]) as (_, port), channel(port) as client:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await client.unary_unary(ECHO)(b"x")

    assert failure.value.code() is grpc.StatusCode.INTERNAL


async def test_a_fallback_answers_whatever_goes_wrong_with_bytes_and_ok() -> None:
    """A method with a fallback answers with status OK, also when its handler crashes or is late."""

    async def crash(request: bytes, call: Call) -> bytes:
        raise ValueError("x")

    gate = Gate()
    methods = [
        UnaryMethod(path=f"/{SERVICE}/{name}", handle=handle, fallback=lambda error, call: error.code.value.encode())
        for name, handle in (("Crash", crash), ("Late", gate))
    ]
    async with running(methods, replace(LIMITS, rpc_budget_seconds=0.1)) as (_, port), channel(port) as client:
        answers = [await client.unary_unary(f"/{SERVICE}/{name}")(b"") for name in ("Crash", "Late")]

    assert answers == [b"internal", b"timeout"]


async def test_m14_stopping_lets_a_call_in_flight_end() -> None:
    """A drain answers what it took, refuses what comes later, and says NOT_SERVING first."""
    gate = Gate()
    server = GrpcServer([method(gate)], LIMITS)
    port = server.listen("127.0.0.1:0")
    await server.start()
    await server.health.set_all(True)
    async with channel(port) as client, channel(port) as watcher:
        watch = health_pb2_grpc.HealthStub(watcher).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        before = (await watch.read()).status
        in_flight = asyncio.ensure_future(client.unary_unary(ECHO)(b"x"))
        await gate.entered.wait()
        stopping = asyncio.ensure_future(server.stop(5))
        after = (await watch.read()).status
        watch.cancel()
        gate.opened.set()
        answer = await in_flight
        await asyncio.wait_for(stopping, 30)
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await client.unary_unary(ECHO)(b"x")

    serving = health_pb2.HealthCheckResponse
    assert (before, after) == (serving.SERVING, serving.NOT_SERVING)
    assert answer == b"opened"
    assert late.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    "path",
    [
        ECHO.removeprefix("/"),
        f"/{ECHO}",
        f"{ECHO}/",
        ECHO.replace("Echo", "%45cho"),
        f"{ECHO}?x=1",
        f"/other{ECHO}",
        ECHO.lower(),
        "/",
        "/test.Doors",
        "/test.Doors/../test.Doors/Echo",
    ],
)
async def test_m15_a_path_that_is_not_exactly_a_method_is_unimplemented(path: str) -> None:
    """No spelling variant of a method's path reaches its handler."""
    called = []

    async def remember(request: bytes, call: Call) -> bytes:
        called.append(request)
        return request

    async with running([method(remember)]) as (_, port), connect(port) as client:
        status, _ = await client.status(await client.call(path))

    assert (status, called) == (str(grpc.StatusCode.UNIMPLEMENTED.value[0]), [])


async def test_streams_of_a_connection_are_bounded() -> None:
    """The server announces how many calls one connection may have at a time."""
    async with running([method(echo)]) as (_, port), connect(port) as client:
        await client.wait_for(h2.events.RemoteSettingsChanged)
        announced = client.connection.remote_settings[h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS]

    assert announced == LIMITS.max_concurrent_streams


async def test_a_connection_that_never_speaks_is_closed() -> None:
    """Opening a connection and sending nothing costs a slot for the handshake timeout only."""
    async with running([method(echo)], replace(LIMITS, handshake_timeout_seconds=0.5)) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(30):
            while await reader.read(1_024):
                pass
        writer.close()


async def test_a_connection_grows_old_and_is_told_to_leave() -> None:
    """Connections end after their age, so that clients spread over new servers."""
    limits = replace(LIMITS, max_connection_age_seconds=0.5, max_connection_age_grace_seconds=0.5)
    async with running([method(echo)], limits) as (_, port), connect(port) as client:
        goaway = await client.wait_for(h2.events.ConnectionTerminated, 30)

    assert goaway.additional_data == b"max_age"


async def test_an_idle_connection_is_told_to_leave() -> None:
    """A connection without calls ends after the idle time."""
    limits = replace(LIMITS, max_connection_idle_seconds=0.5, max_connection_age_seconds=0)
    async with running([method(echo)], limits) as (_, port), connect(port) as client:
        await client.status(await client.call(ECHO))
        goaway = await client.wait_for(h2.events.ConnectionTerminated, 30)

    assert goaway.additional_data == b"connection idle"


async def test_a_silent_peer_is_pinged() -> None:
    """The server asks a connection without traffic whether anybody is there."""
    async with running([method(echo)], replace(LIMITS, keepalive_seconds=1.0)) as (_, port), connect(port) as client:
        await client.wait_for(h2.events.PingReceived, 30)


async def test_health_starts_as_not_serving_and_follows_what_is_said() -> None:
    """A server is healthy when somebody said so and not before, by service and as a whole."""
    serving = health_pb2.HealthCheckResponse
    async with running([method(echo)]) as (server, port), channel(port) as client:
        stub = health_pb2_grpc.HealthStub(client)

        async def status(service: str) -> int:
            return (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status

        at_start = (await status(""), await status(SERVICE))
        await server.health.set_serving(True, SERVICE)
        one = (await status(""), await status(SERVICE))
        await server.health.set_all(True)
        all_of_them = (await status(""), await status(SERVICE))
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await status("other.Service")

    assert at_start == (serving.NOT_SERVING, serving.NOT_SERVING)
    assert one == (serving.NOT_SERVING, serving.SERVING)
    assert all_of_them == (serving.SERVING, serving.SERVING)
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_the_services() -> None:
    """Tools find out what is served."""
    async with running([method(echo)]) as (_, port), channel(port) as client:
        stub = reflection_pb2_grpc.ServerReflectionStub(client)
        call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        answer = await call.read()

    names = {service.name for service in answer.list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health"} <= names


async def test_the_observer_counts_every_outcome() -> None:
    """Each call is observed once with its status."""
    seen = []

    async def fail(request: bytes, call: Call) -> bytes:
        raise AppError(ErrorCode.UNAVAILABLE, "away")

    server = GrpcServer(
        [method(echo), method(fail, "Fail")], LIMITS, observe=lambda path, status, seconds: seen.append((path, status))
    )
    port = server.listen("127.0.0.1:0")
    await server.start()
    async with channel(port) as client:
        await client.unary_unary(ECHO)(b"x")
        with pytest.raises(grpc.aio.AioRpcError):
            await client.unary_unary(f"/{SERVICE}/Fail")(b"x")
    await server.stop(0)

    assert seen == [(ECHO, "OK"), (f"/{SERVICE}/Fail", "UNAVAILABLE")]
