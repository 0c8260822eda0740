"""Bounds of listeners, and of what we ask of others."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcLimits:
    """Bounds of one gRPC listener."""

    max_message_bytes: int
    max_connections: int  # per listener and process
    max_concurrent_streams: int  # per connection
    max_concurrent_rpcs: int  # per process; the last resort behind the limiters of the use cases
    max_pending_rpcs: int  # arrived and not looked at yet; gRPC itself cancels what comes beyond, and tells nobody
    rpc_budget_seconds: float  # our own deadline, because the clients set none
    min_ping_interval_seconds: float = 10.0
    max_ping_strikes: int = 5
    keepalive_seconds: float = 60.0
    keepalive_timeout_seconds: float = 10.0
    max_connection_idle_seconds: float = 0.0  # 0: off
    max_connection_age_seconds: float = 600.0
    max_connection_age_grace_seconds: float = 30.0
    handshake_timeout_seconds: float = 5.0
    max_metadata_bytes: int = 16_384  # soft
    absolute_max_metadata_bytes: int = 32_768  # hard


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """Bounds of one HTTP listener."""

    max_header_bytes: int = 16_384
    max_body_bytes: int = 262_144
    max_import_bytes: int = 10_485_760  # bodies of batch apply and inventory import
    header_timeout_seconds: float = 5.0  # from the connection's first moment to the end of the headers
    body_min_bytes_per_second: int = 1_024
    body_grace_seconds: float = 5.0
    request_budget_seconds: float = 30.0
    keep_alive_seconds: float = 5.0
    max_connections: int = 500
    max_connections_per_address: int = 200
    max_connection_age_seconds: float = 600.0  # then an answer ends its connection
    backlog: int = 512
    shutdown_seconds: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchLimits:
    """Bounds of one request to a server that the settings name: a peer's bundle, a parent."""

    max_bytes: int = 1_048_576
    max_header_bytes: int = 16_384
    timeout_seconds: float = 10.0  # from resolving the name to the last byte
    max_redirects: int = 3  # temporary ones on the same host
