"""Envoy configuration as Python values: the waypoint's two listeners, and the client that tunnels to it.

Pure functions from options to the JSON that Envoy reads. The shape of the waypoint is Istio's: `connect_terminate`
ends mutual TLS and takes HTTP/2 CONNECT (HBONE), an internal listener without TLS runs the HTTP filters, and what
the first knows of the peer reaches the second as filter state only. That is why `source.principal` is empty there,
and why the annotation `ambient.istio.io/xfcc-include-client-identity` exists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Json = dict[str, Any]

_TYPES = "type.googleapis.com/envoy."
PEER_PRINCIPAL = "io.istio.peer_principal"
LOCAL_PRINCIPAL = "io.istio.local_principal"
XFCC = "x-forwarded-client-cert"
LOOPBACK = "127.0.0.1"
CONNECT_TERMINATE = "connect_terminate"
MAIN_INTERNAL = "main_internal"
INBOUND = "inbound"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """An identity as files: certificate chain (leaf first), private key and trust bundle, all PEM."""

    certificate: Path
    private_key: Path
    trust_bundle: Path


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


def typed(name: str, **fields: Any) -> Json:
    """An Envoy `typed_config`: the type's name after `envoy.`, and its fields."""
    return {"@type": f"{_TYPES}{name}", **fields}


def bootstrap(node: str, listeners: Sequence[Json], clusters: Sequence[Json]) -> Json:
    """A whole bootstrap file with an admin endpoint on a free port."""
    return {
        "node": {"id": node, "cluster": node},
        "admin": {"address": socket_address(f"{LOOPBACK}:0")},
        "bootstrap_extensions": [
            {
                "name": "envoy.bootstrap.internal_listener",
                "typed_config": typed("extensions.bootstrap.internal_listener.v3.InternalListener"),
            }
        ],
        "static_resources": {"listeners": list(listeners), "clusters": list(clusters)},
    }


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


def socket_address(address: str) -> Json:
    """An Envoy address from `host:port` or `unix:/path`."""
    if address.startswith("unix:"):
        return {"pipe": {"path": address.removeprefix("unix:")}}
    host, _, port = address.rpartition(":")
    return {"socket_address": {"address": host.strip("[]"), "port_value": int(port)}}


def cluster(name: str, address: str, *, http2: bool = False, **fields: Any) -> Json:
    """A static cluster of one endpoint."""
    config: Json = {
        "name": name,
        "connect_timeout": "2s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket_address(address)}}]}],
        },
        **fields,
    }
    if http2:
        config["typed_extension_protocol_options"] = {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed(
                "extensions.upstreams.http.v3.HttpProtocolOptions",
                explicit_http_config={"http2_protocol_options": {}},
            )
        }
    return config


def downstream_tls(credentials: Credentials, *, alpn: str) -> Json:
    """Server side of mutual TLS: TLS 1.3, a client certificate of the trust bundle demanded."""
    context = typed(
        "extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        require_client_certificate=True,
        common_tls_context=_common_tls(credentials, alpn),
    )
    return {"name": "tls", "typed_config": context}


def upstream_tls(credentials: Credentials, *, alpn: str) -> Json:
    """Client side of mutual TLS; the peer must chain to the trust bundle."""
    context = typed(
        "extensions.transport_sockets.tls.v3.UpstreamTlsContext", common_tls_context=_common_tls(credentials, alpn)
    )
    return {"name": "tls", "typed_config": context}


def _common_tls(credentials: Credentials, alpn: str) -> Json:
    return {
        "alpn_protocols": [alpn],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [
            {
                "certificate_chain": {"filename": str(credentials.certificate)},
                "private_key": {"filename": str(credentials.private_key)},
            }
        ],
        "validation_context": {"trusted_ca": {"filename": str(credentials.trust_bundle)}},
    }


def _connection_manager(stat_prefix: str, **fields: Any) -> Json:
    return {
        "name": "http_connection_manager",
        "typed_config": typed(
            "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            stat_prefix=stat_prefix,
            **fields,
        ),
    }


def _virtual_host(route: Json) -> Json:
    return {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]}


def _router() -> Json:
    return {"name": "router", "typed_config": typed("extensions.filters.http.router.v3.Router")}


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
    return _connection_manager(
        CONNECT_TERMINATE,
        http2_protocol_options={"allow_connect": True},
        upgrade_configs=[{"upgrade_type": "CONNECT"}],
        route_config=_virtual_host(route),
        http_filters=[filter_state, _router()],
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
    return _connection_manager(
        "requests",
        forward_client_cert_details=xfcc_mode,
        # As Istio does by default: BASE normalisation, so that ext_authz and the service see one path.
        normalize_path=True,
        path_with_escaped_slashes_action="KEEP_UNCHANGED",
        route_config=_virtual_host(route),
        http_filters=[*filters, *_enforcement(options.enforcement), _router()],
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
