"""The HTTP flavour of ext_authz in a decision worker: its listener from settings."""

from __future__ import annotations

import ssl
from collections.abc import Callable

from app.decision.attributes import Transport
from app.decision.check import CheckService
from app.rpc.check import CheckCertificates
from app.rpc.ext_authz_http import ExtAuthzHttp
from app.rpc.ext_authz_http_codec import HttpDialects
from app.serving.binding import TcpEndpoint
from app.serving.http import HttpServer
from app.serving.tls import mutual_tls
from app.settings import Settings


def check_http_server(
    service: CheckService, settings: Settings, certificates: CheckCertificates | None, *, shared: bool = True
) -> HttpServer:
    """A listener that was not started; mutual TLS with `certificates`, else for callers on this host."""
    http, listener = settings.check.http, settings.listen.check_http
    dialects = HttpDialects(
        envoy_prefix=http.envoy_prefix,
        nginx_prefix=http.nginx_prefix,
        identity_header=http.identity_header,
        source_header=http.source_header,
        destination_header=http.destination_header,
        method_header=http.method_header,
        uri_header=http.uri_header,
        host_header=http.host_header,
        upstream_headers=frozenset(http.upstream_headers),
    )
    transport = Transport.LOCAL if certificates is None else Transport.MUTUAL_TLS
    return HttpServer(
        ExtAuthzHttp(service, dialects, transport=transport, limits=settings.limits.check),
        TcpEndpoint(listener.address, listener.port, shared=shared),
        limits=settings.limits.check_http,
        tls=None if certificates is None else _contexts(certificates),
    )


def _contexts(certificates: CheckCertificates) -> Callable[[], ssl.SSLContext]:
    """The context of the next handshake; made anew only when certificate or roots changed."""
    made_from = certificates()
    context = mutual_tls(made_from.chain_pem, made_from.key_pem, (made_from.client_roots_pem or b"").decode())

    def current() -> ssl.SSLContext:
        nonlocal made_from, context
        now = certificates()
        if now is not made_from:
            context = mutual_tls(now.chain_pem, now.key_pem, (now.client_roots_pem or b"").decode())
            made_from = now
        return context

    return current
