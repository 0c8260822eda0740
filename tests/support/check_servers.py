"""Check listeners on free ports, in the test's own process, over the worker of `tests.support.decisions`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from app.decision.attributes import Transport
from app.demo.waypoint import Credentials
from app.limits import CheckLimits, Limits
from app.rpc.check import CheckCertificates, CheckListener, CheckServicer, check_server
from app.rpc.server import GrpcServer
from app.rpc.tls import server_credentials
from tests.support.decisions import Worker


@dataclass(frozen=True)
class Serving:
    """A started listener."""

    address: str
    server: GrpcServer


@asynccontextmanager
async def check_listener(
    worker: Worker,
    transport: Transport = Transport.LOCAL,
    *,
    name: str = "local",
    address: str = "127.0.0.1:0",
    certificates: CheckCertificates | None = None,
    limits: Limits | None = None,
    healthy: bool = True,
) -> AsyncIterator[Serving]:
    """Answer Checks until the block ends."""
    listener = CheckListener(
        name=name,
        address=address,
        transport=transport,
        credentials=None if certificates is None else server_credentials(certificates, require_client_certificate=True),
    )
    servicer = CheckServicer(worker.service, limits=CheckLimits())
    server, port = check_server(servicer, listener, limits=(limits or Limits()).check_grpc)
    await server.start()
    if healthy:
        await server.health.set_all(True)
    try:
        yield Serving(address if address.startswith("unix:") else f"127.0.0.1:{port}", server)
    finally:
        await server.stop(0.1)


def certificates_from(credentials: Credentials) -> CheckCertificates:
    """A fixed certificate, with its own trust bundle for callers."""
    chain, key = credentials.certificate.read_bytes(), credentials.private_key.read_bytes()
    roots = credentials.trust_bundle.read_text()
    return CheckCertificates(lambda: (chain, key), lambda: roots)
