"""Check listeners on free ports, in the test's own process, over the worker of `tests.support.decisions`."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from app.bootstrap.check_http import check_http_server
from app.decision.attributes import Transport
from app.demo.waypoint import Credentials
from app.limits import CheckLimits, HttpLimits, Limits
from app.rpc.check import CheckCertificates, CheckListener, CheckServicer, check_server
from app.rpc.server import GrpcServer
from app.rpc.tls import server_credentials
from app.serving.http import HttpServer
from app.settings import Settings
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


@asynccontextmanager
async def http_listener(
    worker: Worker, *, certificates: CheckCertificates | None = None, limits: HttpLimits | None = None, **http: object
) -> AsyncIterator[HttpServer]:
    """Answer ext_authz over HTTP until the block ends, with `check.http` set as given."""
    settings = Settings(
        listen={"check_http": {"port": 0}},
        check={"http": http},
        limits=dataclasses.replace(Limits(), check_http=limits or HttpLimits(max_header_bytes=196_608)),
    )
    async with check_http_server(worker.service, settings, certificates) as server:
        yield server
