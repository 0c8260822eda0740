"""The real Envoy as a plain gateway in front of nothing: it asks about each request, and answers 200 when allowed."""

from pathlib import Path
from typing import Any

from app.demo.envoy import Envoy
from app.demo.envoy_parts import Credentials, bootstrap, downstream_tls, socket_address, typed, upstream_tls

LISTENER = "gateway"


def gateway_config(
    check_address: str,
    *,
    credentials: Credentials | None = None,
    serves: Credentials | None = None,
    timeout_seconds: float = 5.0,
    over_http: bool = False,
) -> dict[str, Any]:
    """One listener that asks `check_address` over gRPC (mutual TLS with `credentials`) or HTTP, and fails closed.

    With `serves` its clients must show a certificate of the mesh, which it passes on (`include_peer_certificate`).
    """
    ext_authz = typed(
        "extensions.filters.http.ext_authz.v3.ExtAuthz",
        transport_api_version="V3",
        failure_mode_allow=False,
        include_peer_certificate=serves is not None,
        status_on_error={"code": "ServiceUnavailable"},
        **_service(f"{timeout_seconds}s", over_http=over_http),
    )
    routes = [{"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "ok"}}}]
    manager = typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=LISTENER,
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        http_filters=[
            {"name": "ext_authz", "typed_config": ext_authz},
            {"name": "router", "typed_config": typed("extensions.filters.http.router.v3.Router")},
        ],
    )
    chain: dict[str, Any] = {"filters": [{"name": "http", "typed_config": manager}]}
    if serves is not None:
        chain["transport_socket"] = downstream_tls(serves, alpn="http/1.1")
    listener = {"name": LISTENER, "address": socket_address("127.0.0.1:0"), "filter_chains": [chain]}
    endpoint = {"endpoint": {"address": socket_address(check_address)}}
    cluster: dict[str, Any] = {
        "name": "check",
        "type": "STATIC",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed(
                "extensions.upstreams.http.v3.HttpProtocolOptions",
                explicit_http_config={"http_protocol_options" if over_http else "http2_protocol_options": {}},
            )
        },
        "load_assignment": {"cluster_name": "check", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    if credentials is not None:
        cluster["transport_socket"] = upstream_tls(credentials, alpn="h2")
    return bootstrap("gateway", [listener], [cluster])


def _service(timeout: str, *, over_http: bool) -> dict[str, Any]:
    if not over_http:
        return {"grpc_service": {"envoy_grpc": {"cluster_name": "check"}, "timeout": timeout}}
    server = {"uri": "http://check", "cluster": "check", "timeout": timeout}
    return {"http_service": {"path_prefix": "/envoy", "server_uri": server}}


def gateway(
    check_address: str,
    directory: Path,
    *,
    credentials: Credentials | None = None,
    serves: Credentials | None = None,
    over_http: bool = False,
) -> Envoy:
    """An Envoy with two threads, so that it has connections to both workers."""
    config = gateway_config(check_address, credentials=credentials, serves=serves, over_http=over_http)
    return Envoy("gateway", config, directory, concurrency=2)
