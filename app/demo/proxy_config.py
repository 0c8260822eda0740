"""Envoy configuration as Python values: the waypoint's two listeners, and the client that tunnels to it.

Pure functions from options to the JSON that Envoy reads. The shape of the waypoint is Istio's: `connect_terminate`
ends mutual TLS and takes HTTP/2 CONNECT (HBONE), an internal listener without TLS runs the HTTP filters, and what
the first knows of the peer reaches the second as filter state only. That is why `source.principal` is empty there,
and why the annotation `ambient.istio.io/xfcc-include-client-identity` exists.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from app.demo.envoy_parts import (
    LOOPBACK,
    Credentials,
    Json,
    bootstrap,
    cluster,
    connection_manager,
    downstream_tls,
    router,
    socket_address,
    typed,
    upstream_tls,
    virtual_host,
)

PEER_PRINCIPAL = "io.istio.peer_principal"
LOCAL_PRINCIPAL = "io.istio.local_principal"
XFCC = "x-forwarded-client-cert"
CONNECT_TERMINATE = "connect_terminate"
MAIN_INTERNAL = "main_internal"
INBOUND = "inbound"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtAuthz:
    """Ask an external authorization service over gRPC; fail closed.

    `address` is `host:port` or `unix:/path`. With `credentials` the connection is mutual TLS (port 9193),
    otherwise plaintext (port 9191).
    """

    address: str
    credentials: Credentials | None = None
    timeout_seconds: float = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeRbac:
    """Envoy's own RBAC filter; `rules` is the JSON of `envoy.config.rbac.v3.RBAC`."""

    rules: Json = field(default_factory=dict)


Enforcement = ExtAuthz | NativeRbac | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WaypointOptions:
    """What distinguishes one waypoint (or sidecar) from another.

    `forward_client_identity` is what the annotation `ambient.istio.io/xfcc-include-client-identity` switches on.
    `backend` is the `host:port` behind every service address; empty answers 200 from Envoy itself.
    """

    credentials: Credentials
    enforcement: Enforcement = None
    forward_client_identity: bool = True
    backend: str = ""
    concurrency: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Tunnel:
    """One way into the mesh: a client identity, the proxy it connects to, the service address it asks for.

    `proxy` is the `host:port` of a waypoint or sidecar; `destination` the service's virtual IP and port, or empty
    for plain mutual TLS without CONNECT, as a sidecar takes it.
    """

    credentials: Credentials
    proxy: str
    destination: str = ""
    source_address: str = LOOPBACK


def waypoint_config(options: WaypointOptions, access_log: Path) -> Json:
    """The waypoint: `connect_terminate` and `main_internal`."""
    terminate = {
        "name": CONNECT_TERMINATE,
        "address": socket_address(f"{LOOPBACK}:0"),
        "filter_chains": [
            {
                "transport_socket": downstream_tls(options.credentials, alpn="h2"),
                "filters": [_connect_manager()],
            }
        ],
    }
    if options.forward_client_identity:
        extra, mode = [_annotate_client_identity()], "ALWAYS_FORWARD_ONLY"
    else:
        extra, mode = [], "SANITIZE"
    inner = {
        "name": MAIN_INTERNAL,
        "internal_listener": {},
        "listener_filters": [
            {
                "name": "original_dst",
                "typed_config": typed("extensions.filters.listener.original_dst.v3.OriginalDst"),
            }
        ],
        "filter_chains": [{"filters": [_request_manager(options, access_log, extra, mode)]}],
    }
    return bootstrap("waypoint", [terminate, inner], [_internal_cluster(), *_service_clusters(options)])


def sidecar_config(options: WaypointOptions, access_log: Path) -> Json:
    """One listener that ends mutual TLS itself, as a sidecar or gateway does: `source.principal` is filled."""
    listener = {
        "name": INBOUND,
        "address": socket_address(f"{LOOPBACK}:0"),
        "filter_chains": [
            {
                "transport_socket": downstream_tls(options.credentials, alpn="http/1.1"),
                "filters": [_request_manager(options, access_log, [], "APPEND_FORWARD")],
            }
        ],
    }
    return bootstrap("sidecar", [listener], _service_clusters(options))


def client_config(tunnels: Mapping[str, Tunnel]) -> Json:
    """One loopback listener a tunnel; whatever TCP arrives there leaves through the tunnel."""
    listeners = []
    clusters = []
    for name, tunnel in tunnels.items():
        proxy: Json = {"stat_prefix": name, "cluster": name}
        if tunnel.destination:
            proxy["tunneling_config"] = {"hostname": tunnel.destination}
        listeners.append(
            {
                "name": name,
                "address": socket_address(f"{LOOPBACK}:0"),
                "filter_chains": [
                    {
                        "filters": [
                            {
                                "name": "tcp_proxy",
                                "typed_config": typed("extensions.filters.network.tcp_proxy.v3.TcpProxy", **proxy),
                            }
                        ]
                    }
                ],
            }
        )
        alpn = "h2" if tunnel.destination else "http/1.1"
        clusters.append(
            cluster(
                name,
                tunnel.proxy,
                http2=bool(tunnel.destination),
                transport_socket=upstream_tls(tunnel.credentials, alpn=alpn),
                upstream_bind_config={"source_address": {"address": tunnel.source_address, "port_value": 0}},
            )
        )
    return bootstrap("client", listeners, clusters)


def _connect_manager() -> Json:
    """Takes CONNECT, keeps what TLS said of both ends in filter state, passes the inner bytes on."""
    hashable = {"factory_key": "envoy.hashable_string"}
    kept = [
        ("envoy.filters.listener.original_dst.local_ip", "%REQ(:AUTHORITY)%", {}),
        ("envoy.filters.listener.original_dst.remote_ip", "%DOWNSTREAM_REMOTE_ADDRESS%", {}),
        (PEER_PRINCIPAL, "%DOWNSTREAM_PEER_URI_SAN%", hashable),
        (LOCAL_PRINCIPAL, "%DOWNSTREAM_LOCAL_URI_SAN%", hashable),
    ]
    filter_state = {
        "name": "connect_authority",
        "typed_config": typed(
            "extensions.filters.http.set_filter_state.v3.Config",
            on_request_headers=[
                {
                    "object_key": key,
                    **factory,
                    "format_string": {"text_format_source": {"inline_string": text}},
                    "shared_with_upstream": "ONCE",
                }
                for key, text, factory in kept
            ],
        ),
    }
    route = {
        "match": {"connect_matcher": {}},
        "route": {
            "cluster": MAIN_INTERNAL,
            "timeout": "0s",
            "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}],
        },
    }
    return connection_manager(
        CONNECT_TERMINATE,
        http2_protocol_options={"allow_connect": True},
        upgrade_configs=[{"upgrade_type": "CONNECT"}],
        route_config=virtual_host(route),
        http_filters=[filter_state, router()],
    )


def _annotate_client_identity() -> Json:
    """What the annotation adds: XFCC overwritten with what mutual TLS said, one element, By and URI."""
    value = f"By=%FILTER_STATE({LOCAL_PRINCIPAL}:PLAIN)%;URI=%FILTER_STATE({PEER_PRINCIPAL}:PLAIN)%"
    append = {"header": {"key": XFCC, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    return {
        "name": "client_identity",
        "typed_config": typed(
            "extensions.filters.http.header_mutation.v3.HeaderMutation",
            mutations={"request_mutations": [{"append": append}]},
        ),
    }


def _request_manager(options: WaypointOptions, access_log: Path, filters: list[Json], xfcc_mode: str) -> Json:
    if options.backend:
        route: Json = {"match": {"prefix": "/"}, "route": {"cluster": "backend", "timeout": "5s"}}
    else:
        direct = {"status": 200, "body": {"inline_string": "hello\n"}}
        route = {"match": {"prefix": "/"}, "direct_response": direct}
    return connection_manager(
        "requests",
        forward_client_cert_details=xfcc_mode,
        # As Istio does by default: BASE normalisation, so that ext_authz and the service see one path.
        normalize_path=True,
        path_with_escaped_slashes_action="KEEP_UNCHANGED",
        route_config=virtual_host(route),
        http_filters=[*filters, *_enforcement(options.enforcement), router()],
        access_log=[_access_log(access_log)],
        **({"set_current_client_cert_details": {"uri": True}} if xfcc_mode == "APPEND_FORWARD" else {}),
    )


def _enforcement(enforcement: Enforcement) -> list[Json]:
    match enforcement:
        case ExtAuthz():
            config = typed(
                "extensions.filters.http.ext_authz.v3.ExtAuthz",
                transport_api_version="V3",
                failure_mode_allow=False,
                grpc_service={
                    "envoy_grpc": {"cluster_name": "authorization"},
                    "timeout": f"{enforcement.timeout_seconds}s",
                },
            )
            return [{"name": "ext_authz", "typed_config": config}]
        case NativeRbac():
            config = typed("extensions.filters.http.rbac.v3.RBAC", rules=enforcement.rules)
            return [{"name": "rbac", "typed_config": config}]
        case None:
            return []


def _service_clusters(options: WaypointOptions) -> list[Json]:
    clusters = []
    if options.backend:
        clusters.append(cluster("backend", options.backend))
    if isinstance(options.enforcement, ExtAuthz):
        credentials = options.enforcement.credentials
        tls = {} if credentials is None else {"transport_socket": upstream_tls(credentials, alpn="h2")}
        clusters.append(cluster("authorization", options.enforcement.address, http2=True, **tls))
    return clusters


def _internal_cluster() -> Json:
    endpoint = {"address": {"envoy_internal_address": {"server_listener_name": MAIN_INTERNAL}}}
    raw = {"name": "raw_buffer", "typed_config": typed("extensions.transport_sockets.raw_buffer.v3.RawBuffer")}
    return {
        "name": MAIN_INTERNAL,
        "load_assignment": {
            "cluster_name": MAIN_INTERNAL,
            "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}],
        },
        "transport_socket": {
            "name": "internal_upstream",
            "typed_config": typed(
                "extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport", transport_socket=raw
            ),
        },
    }


def _access_log(path: Path) -> Json:
    """One JSON line a request, with what the authorization service said of it."""
    return {
        "name": "file",
        "typed_config": typed(
            "extensions.access_loggers.file.v3.FileAccessLog",
            path=str(path),
            log_format={
                "json_format": {
                    "method": "%REQ(:METHOD)%",
                    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
                    "status": "%RESPONSE_CODE%",
                    "details": "%RESPONSE_CODE_DETAILS%",
                    "peer": f"%FILTER_STATE({PEER_PRINCIPAL}:PLAIN)%",
                    "decision": "%DYNAMIC_METADATA(envoy.filters.http.ext_authz)%",
                }
            },
        ),
    }
