"""The real Envoy as a plain gateway in front of nothing: it asks about each request, and answers 200 when allowed."""

from pathlib import Path
from typing import Any

from app.demo.envoy import Envoy
from app.demo.proxy_config import bootstrap, socket_address, typed

LISTENER = "gateway"


def gateway_config(check_address: str, *, timeout_seconds: float = 1.0) -> dict[str, Any]:
    """One listener that asks `check_address` over plaintext gRPC, fails closed, and answers by itself."""
    ext_authz = typed(
        "extensions.filters.http.ext_authz.v3.ExtAuthz",
        transport_api_version="V3",
        failure_mode_allow=False,
        status_on_error={"code": "ServiceUnavailable"},
        grpc_service={"envoy_grpc": {"cluster_name": "check"}, "timeout": f"{timeout_seconds}s"},
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
    listener = {
        "name": LISTENER,
        "address": socket_address("127.0.0.1:0"),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    endpoint = {"endpoint": {"address": socket_address(check_address)}}
    cluster = {
        "name": "check",
        "type": "STATIC",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed(
                "extensions.upstreams.http.v3.HttpProtocolOptions",
                explicit_http_config={"http2_protocol_options": {}},
            )
        },
        "load_assignment": {"cluster_name": "check", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    return bootstrap("gateway", [listener], [cluster])


def gateway(check_address: str, directory: Path) -> Envoy:
    """An Envoy with two threads, so that it has connections to both workers."""
    return Envoy("gateway", gateway_config(check_address), directory, concurrency=2)
