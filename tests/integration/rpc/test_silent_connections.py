"""Case 78: clients that open many TLS connections and send nothing.

gRPC has no cap by address. What bounds them is the handshake timeout, which holds until HTTP/2 has begun, the idle
timeout after it, and the number of connections of each port; the two ports have these bounds each for themselves.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from app.demo.node_agent import CREATE_CERTIFICATE
from app.limits import CertificateLimits, GrpcLimits, Limits
from app.rpc.pb.certificates_pb2 import IstioCertificateRequest, IstioCertificateResponse
from tests.support.ca import CART, Served, make_world, serve
from tests.support.certificates import make_csr

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
ROOMY = CertificateLimits(identity_burst=1_000, early_renewals=1_000)
QUICK: dict[str, float] = {"handshake_timeout_seconds": 1.0, "max_connection_idle_seconds": 1.0}


@pytest.fixture(name="served")
async def _served() -> AsyncIterator[Served]:
    async with serve(make_world(), quick(Limits().ca_grpc), mtls_limits=quick(Limits().ca_mtls_grpc)) as served:
        yield served


def quick(limits: GrpcLimits) -> GrpcLimits:
    return replace(limits, **QUICK)  # type: ignore[arg-type]


class Silent:
    """One connection; `say` is what it sends after the handshake, and then it only waits for its end."""

    def __init__(self, port: int, tls: ssl.SSLContext | None, say: bytes) -> None:
        self._port = port
        self._tls = tls
        self._say = say
        self.heard = asyncio.Event()  # the server has said something, so it has let the connection in

    async def until_closed(self) -> float:
        """Seconds from the connection to its end."""
        started = time.monotonic()
        writer = None
        try:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", self._port, ssl=self._tls, server_hostname="localhost" if self._tls else None
            )
            writer.write(self._say)
            while await reader.read(65_536):
                self.heard.set()
        except (OSError, ssl.SSLError):
            pass  # reset instead of closed: over all the same
        finally:
            if writer is not None:
                writer.transport.abort()  # without the farewells of TLS, which nobody would answer
        return time.monotonic() - started


def client_tls(served: Served) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=served.roots_pem.decode())
    context.set_alpn_protocols(["h2"])
    return context


async def _flood(served: Served, port: int, *, tcp: int, tls: int, begun: int) -> tuple[list[float], list[float]]:
    """Silent connections of three kinds, and beside them good requests: how long each of both took."""
    context = client_tls(served)
    silent = [
        *(Silent(port, None, b"") for _ in range(tcp)),
        *(Silent(port, context, b"") for _ in range(tls)),
        *(Silent(port, context, PREFACE) for _ in range(begun)),
    ]
    held = [asyncio.create_task(each.until_closed()) for each in silent]
    good = []
    async with served.agent() as agent:
        while not all(task.done() for task in held):
            started = time.monotonic()
            await agent.fetch(CART)
            good.append(time.monotonic() - started)
            await asyncio.sleep(0.3)
    return await asyncio.gather(*held), good


@pytest.mark.parametrize("door", ["port", "mtls_port"])
async def test_case_078_silent_connections_are_closed_and_others_unaffected(served: Served, door: str) -> None:
    """Before TLS, after TLS, and after HTTP/2 has begun: all closed in bounded time; a node proxy is served meanwhile."""
    lasted, good = await _flood(served, getattr(served, door), tcp=60, tls=20, begun=20)

    assert len(lasted) == 100
    assert max(lasted) < 15.0
    assert good
    assert sorted(good)[len(good) // 2] < 2.0
    assert served.world.observer.refusals == []


async def test_case_078_one_port_full_of_silence_leaves_the_other_free() -> None:
    """Every connection of the tokens' port taken, the port of mutual TLS still answers."""
    few = replace(Limits().ca_grpc, max_connections=5, handshake_timeout_seconds=30.0)
    async with serve(make_world(), few, mtls_limits=Limits().ca_mtls_grpc) as served:
        own = await served.with_certificate()
        context = client_tls(served)
        held: list[asyncio.Task[float]] = []
        try:
            async with asyncio.timeout(30):
                while len(held) < 5:
                    held.extend(await _let_in(Silent(served.port, context, PREFACE)))
            async with own.raw_channel() as channel:
                request = IstioCertificateRequest(csr=make_csr(names=(CART,))).SerializeToString()
                answer = await channel.unary_unary(CREATE_CERTIFICATE)(request, timeout=20)
        finally:
            for task in held:
                task.cancel()
            await asyncio.gather(*held, return_exceptions=True)

    assert IstioCertificateResponse.FromString(answer).cert_chain


async def _let_in(silent: Silent) -> list[asyncio.Task[float]]:
    """The connection, held open; none where it was turned away, as while a closed one is still counted."""
    task = asyncio.create_task(silent.until_closed())
    heard = asyncio.create_task(silent.heard.wait())
    await asyncio.wait((task, heard), return_when=asyncio.FIRST_COMPLETED)
    heard.cancel()
    return [] if task.done() else [task]


@pytest.mark.torture
@pytest.mark.parametrize("door", ["port", "mtls_port"])
async def test_case_078_a_thousand(served: Served, door: str) -> None:
    """The full count, each after its TLS handshake."""
    lasted, good = await _flood(served, getattr(served, door), tcp=0, tls=1_000, begun=0)

    assert len(lasted) == 1_000
    assert max(lasted) < 60.0
    assert sorted(good)[len(good) // 2] < 5.0
