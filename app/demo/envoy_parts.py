"""Parts that any Envoy configuration is made of: addresses, clusters, mutual TLS, the HTTP connection manager.

Pure functions from values to the JSON that Envoy reads; which listeners there are is for whoever puts them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Json = dict[str, Any]

_TYPES = "type.googleapis.com/envoy."
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """An identity as files: certificate chain (leaf first), private key and trust bundle, all PEM."""

    certificate: Path
    private_key: Path
    trust_bundle: Path


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


def connection_manager(stat_prefix: str, **fields: Any) -> Json:
    """The network filter that reads HTTP and runs the HTTP filters."""
    return {
        "name": "http_connection_manager",
        "typed_config": typed(
            "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            stat_prefix=stat_prefix,
            **fields,
        ),
    }


def virtual_host(route: Json) -> Json:
    """A route configuration of one route, for every host."""
    return {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]}


def router() -> Json:
    """The HTTP filter that ends each chain."""
    return {"name": "router", "typed_config": typed("extensions.filters.http.router.v3.Router")}


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
