"""Opens the ports of the authority process: the link, the API and the certificate service."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from app.authority.actor import Role
from app.authority.administration import Administration
from app.authority.link_ports import WorkerCaller
from app.bootstrap.authority_core import AuthorityCore
from app.bootstrap.issuing import with_client_roots
from app.errors import AppError, ErrorCode
from app.link.server import LinkServices, create_link_app
from app.rest.app import create_app, rest_body_limits
from app.rpc.tls import server_credentials
from app.serving.binding import TcpEndpoint
from app.serving.bounded import AsgiApp
from app.serving.http import HttpServer
from app.serving.tls import server_tls
from app.settings import Listener, Settings

_LOCAL_WORKER = WorkerCaller("local")


@dataclass(frozen=True, slots=True)
class _Workers:
    """Whom the link believes: workers of this host by the token of this start, others by tokens of role worker."""

    administration: Administration
    local_token: str

    async def authenticate_worker(self, token: str) -> WorkerCaller:
        if self.local_token and hmac.compare_digest(token.encode(), self.local_token.encode()):
            return _LOCAL_WORKER
        actor = await self.administration.tokens.authenticate(token)
        if actor.role is not Role.WORKER:
            raise AppError(ErrorCode.UNAUTHENTICATED, "not a worker's token")
        return WorkerCaller(actor.name)


async def serve_certificates(stack: AsyncExitStack, core: AuthorityCore, settings: Settings) -> None:
    """Open both ports of the certificate service."""
    listen, certificates = settings.listen, core.listener_certificates
    if listen.ca.enabled:
        core.ca.tokens.listen(_target(listen.ca), server_credentials(certificates.current))
    if listen.ca_mtls.enabled:
        source = with_client_roots(certificates, core.issuer)
        credentials = server_credentials(source, require_client_certificate=True)
        core.ca.mutual_tls.listen(_target(listen.ca_mtls), credentials)
    for server in core.ca.servers:
        await server.start()
        stack.push_async_callback(server.stop, 0.5)


async def listen_http(
    stack: AsyncExitStack, core: AuthorityCore, settings: Settings, extra: Mapping[str, Any]
) -> list[HttpServer]:
    """Open the link and the API; off loopback with TLS (settings see to it that there is one)."""
    rest, local_link_port = core.rest, int(extra.get("local_link_port", 0))
    link = LinkServices(
        publisher=core.publisher,
        workers=_Workers(rest.administration, str(extra.get("local_worker_token", ""))),
        registry=rest.workers,
        certificates=core.worker_certificates,
        checkpoints=core.numbering,
        clock=rest.clock,
        limits=settings.limits.check,
        token_keys=core.token_keys,
    )
    http = settings.limits.http
    link_app: AsgiApp = create_link_app(link)
    no_limits: Mapping[str, int] = {}
    listeners = [
        (settings.listen.link, link_app, no_limits),
        (settings.listen.api, create_app(rest), rest_body_limits(http)),
    ]
    if local_link_port:
        listeners.append((Listener(port=local_link_port), link_app, no_limits))
    servers = []
    for listener, app, body_limits in listeners:
        if not listener.enabled:
            continue
        tls = None
        if not listener.is_loopback:
            assert settings.tls.certificate_file is not None
            assert settings.tls.key_file is not None
            tls = server_tls(settings.tls.certificate_file, settings.tls.key_file)
        endpoint = TcpEndpoint(listener.address, listener.port)
        server = HttpServer(app, endpoint, limits=http, tls=tls, body_limits=body_limits)
        servers.append(await stack.enter_async_context(server))
    return servers


def _target(listener: Listener) -> str:
    return f"[{listener.address}]:{listener.port}" if ":" in listener.address else f"{listener.address}:{listener.port}"
